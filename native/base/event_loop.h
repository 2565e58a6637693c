// EventLoop: one epoll thread that serves file descriptors and posted tasks. Devices of many VMs
// share a few of them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "base/result.h"

namespace vmfork {

// Called on the loop's thread with the EPOLL* bits that are ready.
class EventHandler {
 public:
  virtual ~EventHandler() = default;
  virtual void OnEvents(uint32_t events) = 0;
};

class EventLoop {
 public:
  // Starts the thread.
  static Result<std::unique_ptr<EventLoop>> Start(const std::string& thread_name);
  ~EventLoop();  // stops and joins; must not be called on the loop's own thread
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Watches `fd` (level-triggered; `events` may be 0 to watch only for errors and hang-up). The
  // handler must stay alive until Remove() has returned. Any thread.
  Result<void> Add(int fd, uint32_t events, EventHandler* handler);
  Result<void> Modify(int fd, uint32_t events, EventHandler* handler);
  // After it returns the handler is not running and will not be called again for this fd: called on
  // another thread than the loop's, it waits for a dispatch in progress; called on the loop's
  // thread, it drops events of the batch at hand that are due for the handler. So never call it
  // with a lock held that the handler takes, unless on the loop's thread. Call it before the fd is
  // closed.
  void Remove(int fd, EventHandler* handler);

  // Runs `task` on the loop's thread, in order of posting.
  void Post(std::function<void()> task);
  // Waits until it has run behind what was posted before; runs it at once when already on the
  // loop's thread. Needs no memory: that is how machines are taken down.
  void Run(const std::function<void()>& task);
  bool IsCurrentThread() const;

 private:
  EventLoop(UniqueFd epoll, EventFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  void Main();
  void RunTasks();
  struct Visit;  // of one that waits in Run(), on whose stack it lies

  UniqueFd epoll_;
  EventFd wake_;
  std::thread thread_;
  std::mutex mutex_;  // guards the next three
  std::vector<std::function<void()>> tasks_;
  Visit* visits_ = nullptr;  // the newest first
  bool stopping_ = false;
  // Handlers of the epoll batch being dispatched; only the loop's thread touches it.
  std::vector<EventHandler*> batch_;
};

}  // namespace vmfork
