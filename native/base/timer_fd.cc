// timerfd_create(2).
#include "base/timer_fd.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

namespace vmfork {

Result<TimerFd> TimerFd::Create() {
  // libstdc++'s steady clock is CLOCK_MONOTONIC.
  UniqueFd fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!fd.IsValid()) return FailErrno("timerfd_create");
  return TimerFd(std::move(fd));
}

void TimerFd::Set(std::chrono::steady_clock::time_point moment) const {
  using std::chrono::nanoseconds;
  using std::chrono::seconds;
  // Zero would unset it.
  const nanoseconds since = std::max(nanoseconds(1), nanoseconds(moment.time_since_epoch()));
  const auto whole = std::chrono::duration_cast<seconds>(since);
  itimerspec value{};
  value.it_value.tv_sec = whole.count();
  value.it_value.tv_nsec = (since - whole).count();
  ::timerfd_settime(fd_.Get(), TFD_TIMER_ABSTIME, &value, nullptr);
}

void TimerFd::Drain() const {
  uint64_t expirations = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_.Get(), &expirations, sizeof expirations);
}

}  // namespace vmfork
