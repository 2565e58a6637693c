// Thread: a thread with a small stack and a name, joined by its owner. A thousand VMs have a
// thousand vCPU threads, and the default of 8 MiB of address space each would make every mmap and
// fork of the process slower.
#pragma once

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <mutex>
#include <string>

#include "base/result.h"
#include "base/thread_stacks.h"

namespace vmfork {

class Thread {
 public:
  Thread() = default;
  ~Thread() { Join(); }
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  // The signals of base/signals.h are blocked in it. `stack`: what it runs on; without one, or when
  // that is too small, it gets one of its own. Errors: kSystem, kNoMemory.
  Result<void> Start(const std::string& name, std::function<void()> body,
                     ThreadStacks::Stack stack = {});
  void Join();
  // Sends a signal to the running thread.
  void Kill(int signal_number) const;
  bool IsStarted() const { return started_; }

 private:
  int Create(std::span<std::byte> stack);  // an errno
  static void* Main(void* self);
  std::function<void()> body_;
  std::string name_;
  ThreadStacks::Stack stack_;
  mutable std::mutex
      mutex_;  // guards thread_: a signal may be sent while Start() is still under way
  pthread_t thread_{};
  std::atomic<bool> started_ = false;
};

// For a thread that computes without end: it has its share of the processors in longer turns and
// interrupts no other thread by waking up, so that threads that want a processor only briefly
// (JavaScript's, the kernel's workers) are served at once. `nice` makes the share smaller, 0 to 19.
// Where the kernel cannot give longer turns (before Linux 6.12, and for SCHED_IDLE), it does the
// rest.
void ComputeInBackground(int nice);

}  // namespace vmfork
