// eventfd(2).
#include "base/event_fd.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

namespace vmfork {

Result<EventFd> EventFd::Create() {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd.IsValid()) return FailErrno("eventfd");
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const uint64_t one = 1;
  // EAGAIN means the counter is at its maximum: it is signalled all the same.
  [[maybe_unused]] ssize_t written = ::write(fd_.Get(), &one, sizeof one);
}

bool EventFd::Drain() const {
  uint64_t count = 0;
  return ::read(fd_.Get(), &count, sizeof count) == sizeof count;
}

}  // namespace vmfork
