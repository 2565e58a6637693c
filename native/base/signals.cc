// Signal masks and the kick handler.
#include "base/signals.h"

#include <csignal>
#include <mutex>

namespace vmfork {

int KickSignal() {
  // Real-time signals 0 and 1 are glibc's; low ones are popular. No SA_RESTART: KVM_RUN has to
  // return.
  static const int signal_number = SIGRTMIN + 9;
  static std::once_flag installed;
  std::call_once(installed, [] {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    ::sigemptyset(&action.sa_mask);
    ::sigaction(signal_number, &action, nullptr);
  });
  return signal_number;
}

void BlockSignals() {
  sigset_t blocked;
  ::sigfillset(&blocked);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
    ::sigdelset(&blocked, fault);
  ::sigdelset(&blocked, KickSignal());
  ::pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
}

}  // namespace vmfork
