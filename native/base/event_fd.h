// EventFd: a counter that one side signals and the other waits for; also how KVM's ioeventfd and
// irqfd are reached.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

class EventFd {
 public:
  EventFd() = default;
  static Result<EventFd> Create();  // non-blocking, close-on-exec

  void Signal() const;
  // Resets the counter; true when it was signalled.
  bool Drain() const;
  int Get() const { return fd_.Get(); }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace vmfork
