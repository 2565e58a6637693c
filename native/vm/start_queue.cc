// Whose turn it is.
#include "vm/start_queue.h"

#include <sys/epoll.h>

#include <utility>

namespace vmfork {

Result<std::unique_ptr<StartQueue>> StartQueue::Create(EventLoop& loop, size_t at_once) {
  VMFORK_TRY(timer, TimerFd::Create());
  std::unique_ptr<StartQueue> queue(new StartQueue(loop, at_once, std::move(timer)));
  VMFORK_CHECK(loop.Add(queue->timer_.Get(), EPOLLIN, queue.get()));
  return queue;
}

StartQueue::~StartQueue() { loop_.Remove(timer_.Get(), this); }

void StartQueue::Enter(Place& place, Start start) {
  std::lock_guard lock(mutex_);
  place.position_ = waiting_.insert(waiting_.end(), &place);
  place.start_ = std::move(start);
  place.state_ = Place::State::kWaiting;
  StartNext(false);
}

void StartQueue::Leave(Place& place) {
  std::lock_guard lock(mutex_);
  if (place.state_ == Place::State::kOut) return;
  Take(place);
  StartNext(true);
}

void StartQueue::OnEvents(uint32_t) {
  std::lock_guard lock(mutex_);
  timer_.Drain();
  const auto now = std::chrono::steady_clock::now();
  while (!starting_.empty() && starting_.front()->until_ <= now) Take(*starting_.front());
  StartNext(true);
}

void StartQueue::Take(Place& place) {
  auto& list = place.state_ == Place::State::kWaiting ? waiting_ : starting_;
  list.erase(place.position_);
  place.state_ = Place::State::kOut;
  place.start_ = nullptr;
}

void StartQueue::StartNext(bool has_waited) {
  while (!waiting_.empty() && starting_.size() < at_once_) {
    Place& next = *waiting_.front();
    starting_.splice(starting_.end(), waiting_, next.position_);
    next.state_ = Place::State::kStarting;
    next.until_ = std::chrono::steady_clock::now() + kLongestTurn;
    next.start_(has_waited);
  }
  if (!waiting_.empty()) timer_.Set(starting_.front()->until_);
}

}  // namespace vmfork
