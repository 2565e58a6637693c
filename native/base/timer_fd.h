// TimerFd: a moment of the monotonic clock that an event loop can wait for.
#pragma once

#include <chrono>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

class TimerFd {
 public:
  TimerFd() = default;
  static Result<TimerFd> Create();  // non-blocking, close-on-exec, not set

  // Readable from then on, once; what was set before is forgotten. A moment that is past is now.
  void Set(std::chrono::steady_clock::time_point moment) const;
  // Resets it when it has come.
  void Drain() const;
  int Get() const { return fd_.Get(); }

 private:
  explicit TimerFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace vmfork
