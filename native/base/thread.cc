// pthreads.
#include "base/thread.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "base/signals.h"

namespace vmfork {

namespace {
constexpr uint64_t kLongTurnNs = 20'000'000;
constexpr size_t kMaxNameBytes = 15;  // pthread_setname_np(3)

// struct sched_attr, version 0 (sched_setattr(2)); the C library has none.
struct SchedulingAttributes {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime;
  uint64_t deadline;
  uint64_t period;
};
static_assert(sizeof(SchedulingAttributes) == 48);
}  // namespace

Result<void> Thread::Start(const std::string& name, std::function<void()> body,
                           ThreadStacks::Stack stack) {
  body_ = std::move(body);
  name_ = name.substr(0, kMaxNameBytes);
  stack_ = std::move(stack);
  std::lock_guard lock(mutex_);
  int error_number = Create(stack_.Bytes());
  // The program's thread-local storage leaves too little of it: the C library makes a larger one.
  if (error_number == EINVAL && !stack_.Bytes().empty()) {
    stack_ = {};
    error_number = Create({});
  }
  if (error_number == EAGAIN)
    return Fail(ErrorCode::kNoMemory, "pthread_create", "thread limit reached", EAGAIN);
  if (error_number != 0) return FailErrno(error_number, "pthread_create", name);
  started_ = true;
  return {};
}

int Thread::Create(std::span<std::byte> stack) {
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  if (stack.empty()) {
    ::pthread_attr_setstacksize(&attributes, ThreadStacks::kStackBytes);
  } else {
    ::pthread_attr_setstack(&attributes, stack.data(), stack.size());
  }
  const int error_number = ::pthread_create(&thread_, &attributes, Main, this);
  ::pthread_attr_destroy(&attributes);
  return error_number;
}

void* Thread::Main(void* self) {
  BlockSignals();
  auto* thread = static_cast<Thread*>(self);
  // Here, because naming another thread goes by way of a file in /proc.
  ::pthread_setname_np(::pthread_self(), thread->name_.c_str());
  thread->body_();
  return nullptr;
}

void Thread::Join() {
  if (started_) ::pthread_join(thread_, nullptr);
  started_ = false;
  stack_ = {};
}

void Thread::Kill(int signal_number) const {
  std::lock_guard lock(mutex_);
  if (started_) ::pthread_kill(thread_, signal_number);
}

void ComputeInBackground(int nice) {
  SchedulingAttributes attributes{};
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  // A program that has chosen a policy for its threads keeps it.
  if (attributes.policy != SCHED_OTHER) return;
  attributes.policy = SCHED_BATCH;
  attributes.nice = std::max(attributes.nice, nice);
  // For this policy the length of a turn: 0.1 … 100 ms (kernel/sched/syscalls.c, __setparam_fair).
  attributes.runtime = kLongTurnNs;
  std::ignore = ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace vmfork
