// Doorbell: the eventfd that notifications of a machine's virtio devices signal. A loop watches it
// for as long as the shell lives, whoever has that: to begin costs a system call, which no fork
// should wait for.
#pragma once

#include <atomic>
#include <memory>

#include "base/event_fd.h"
#include "base/event_loop.h"
#include "base/result.h"

namespace vmfork {

class Doorbell : private EventHandler {
 public:
  static Result<std::unique_ptr<Doorbell>> Create(EventLoop& loop);
  ~Doorbell() override;  // *blocks*

  // Serves the devices; the same for all that ever use the shell.
  EventLoop& Loop() const { return loop_; }
  const EventFd& Event() const { return event_; }
  // Who is told, on the loop's thread, after it was signalled; null: nobody. On any thread, but
  // only on the loop's thread is the one of before not being told right now.
  void SetOwner(EventHandler* owner) { owner_ = owner; }

 private:
  Doorbell(EventLoop& loop, EventFd event) : loop_(loop), event_(std::move(event)) {}
  void OnEvents(uint32_t events) override;

  EventLoop& loop_;
  const EventFd event_;
  std::atomic<EventHandler*> owner_ = nullptr;
};

}  // namespace vmfork
