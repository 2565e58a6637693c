// The epoll thread.
#include "base/event_loop.h"

#include <pthread.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <utility>

#include "base/signals.h"

namespace vmfork {

Result<std::unique_ptr<EventLoop>> EventLoop::Start(const std::string& thread_name) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.IsValid()) return FailErrno("epoll_create1");
  VMFORK_TRY(wake, EventFd::Create());
  std::unique_ptr<EventLoop> loop(new EventLoop(std::move(epoll), std::move(wake)));
  VMFORK_CHECK(loop->Add(loop->wake_.Get(), EPOLLIN, nullptr));
  loop->thread_ = std::thread([raw = loop.get()] { raw->Main(); });
  ::pthread_setname_np(loop->thread_.native_handle(), thread_name.substr(0, 15).c_str());
  return loop;
}

EventLoop::~EventLoop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.Signal();
  if (thread_.joinable()) thread_.join();
}

Result<void> EventLoop::Add(int fd, uint32_t events, EventHandler* handler) {
  epoll_event event{.events = events, .data = {.ptr = handler}};
  if (::epoll_ctl(epoll_.Get(), EPOLL_CTL_ADD, fd, &event) != 0) return FailErrno("epoll_ctl(ADD)");
  return {};
}

Result<void> EventLoop::Modify(int fd, uint32_t events, EventHandler* handler) {
  epoll_event event{.events = events, .data = {.ptr = handler}};
  if (::epoll_ctl(epoll_.Get(), EPOLL_CTL_MOD, fd, &event) != 0) return FailErrno("epoll_ctl(MOD)");
  return {};
}

void EventLoop::Remove(int fd, EventHandler* handler) {
  ::epoll_ctl(epoll_.Get(), EPOLL_CTL_DEL, fd, nullptr);
  if (IsCurrentThread()) {
    std::replace(batch_.begin(), batch_.end(), handler, static_cast<EventHandler*>(nullptr));
  } else {
    Run([this, handler] {
      std::replace(batch_.begin(), batch_.end(), handler, static_cast<EventHandler*>(nullptr));
    });
  }
}

void EventLoop::Post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.Signal();
}

struct EventLoop::Visit {
  explicit Visit(const std::function<void()>& wanted) : task(wanted) {}

  const std::function<void()>& task;
  Visit* next = nullptr;
  bool done = false;
  std::mutex mutex;  // guards done
  std::condition_variable changed;

  void Complete() {
    task();
    std::lock_guard lock(mutex);
    done = true;
    changed.notify_one();
  }
};

void EventLoop::Run(const std::function<void()>& task) {
  if (IsCurrentThread()) return task();
  Visit visit(task);
  {
    std::lock_guard lock(mutex_);
    visit.next = std::exchange(visits_, &visit);
  }
  wake_.Signal();
  std::unique_lock lock(visit.mutex);
  visit.changed.wait(lock, [&visit] { return visit.done; });
}

bool EventLoop::IsCurrentThread() const { return std::this_thread::get_id() == thread_.get_id(); }

void EventLoop::RunTasks() {
  std::vector<std::function<void()>> tasks;
  Visit* visit = nullptr;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
    visit = std::exchange(visits_, nullptr);
  }
  for (auto& task : tasks) task();
  while (visit != nullptr) std::exchange(visit, visit->next)->Complete();
}

void EventLoop::Main() {
  BlockSignals();
  std::array<epoll_event, 64> events;
  for (;;) {
    int count = ::epoll_wait(epoll_.Get(), events.data(), static_cast<int>(events.size()), -1);
    if (count < 0) count = 0;  // EINTR
    batch_.assign(static_cast<size_t>(count), nullptr);
    bool woken = false;
    for (size_t i = 0; i < batch_.size(); ++i) {
      batch_[i] = static_cast<EventHandler*>(events[i].data.ptr);
      if (batch_[i] == nullptr) woken = wake_.Drain();
    }
    // Indexed by position: a handler's Remove() blanks entries that have not been reached.
    for (size_t i = 0; i < batch_.size(); ++i) {
      if (batch_[i] != nullptr) batch_[i]->OnEvents(events[i].events);
    }
    if (woken) RunTasks();
    std::lock_guard lock(mutex_);
    if (stopping_ && tasks_.empty() && visits_ == nullptr) return;
  }
}

}  // namespace vmfork
