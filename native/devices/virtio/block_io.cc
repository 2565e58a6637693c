// Requests on their way through the I/O threads.
#include "devices/virtio/block_io.h"

namespace vmfork {

namespace {
std::unique_ptr<BlockRequest> TakeFirst(std::deque<std::unique_ptr<BlockRequest>>& list) {
  if (list.empty()) return nullptr;
  auto first = std::move(list.front());
  list.pop_front();
  return first;
}
}  // namespace

void BlockIo::Submit(std::unique_ptr<BlockRequest> request) {
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(request));
    ++tasks_;
  }
  threads_.Submit([this] { RunOne(); });
}

std::unique_ptr<BlockRequest> BlockIo::TakeCompleted() {
  std::lock_guard lock(mutex_);
  return TakeFirst(completed_);
}

void BlockIo::Cancel() {
  std::unique_lock lock(mutex_);
  waiting_.clear();
  changed_.wait(lock, [this] { return executing_ == 0; });
  completed_.clear();
}

void BlockIo::WaitIdle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return tasks_ == 0; });
}

void BlockIo::RunOne() {
  std::unique_ptr<BlockRequest> request;
  {
    std::lock_guard lock(mutex_);
    request = TakeFirst(waiting_);
    if (request != nullptr) ++executing_;
  }
  if (request != nullptr) {
    request->Execute();
    {
      std::lock_guard lock(mutex_);
      completed_.push_back(std::move(request));
      --executing_;
      changed_.notify_all();
    }
    deliver_();
  }
  // With the lock held to the end: the owner may be gone as soon as it is released.
  std::lock_guard lock(mutex_);
  --tasks_;
  changed_.notify_all();
}

}  // namespace vmfork
