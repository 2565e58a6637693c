// pthreads.
#include "base/thread.h"

#include "base/signals.h"

namespace vmfork {

namespace {
// Enough for every device model, which do not recurse; the embedding program's thread-local storage
// also lives in it.
constexpr size_t kStackBytes = 256 << 10;
}  // namespace

Result<void> Thread::Start(const std::string& name, std::function<void()> body) {
  body_ = std::move(body);
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  std::lock_guard lock(mutex_);
  const int error_number = ::pthread_create(&thread_, &attributes, Main, this);
  ::pthread_attr_destroy(&attributes);
  if (error_number == EAGAIN)
    return Fail(ErrorCode::kNoMemory, "pthread_create", "thread limit reached", EAGAIN);
  if (error_number != 0) return FailErrno(error_number, "pthread_create", name);
  started_ = true;
  ::pthread_setname_np(thread_, name.substr(0, 15).c_str());
  return {};
}

void* Thread::Main(void* self) {
  BlockSignals();
  static_cast<Thread*>(self)->body_();
  return nullptr;
}

void Thread::Join() {
  if (started_) ::pthread_join(thread_, nullptr);
  started_ = false;
}

void Thread::Kill(int signal_number) const {
  std::lock_guard lock(mutex_);
  if (started_) ::pthread_kill(thread_, signal_number);
}

}  // namespace vmfork
