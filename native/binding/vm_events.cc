// Making events.
#include "binding/vm_events.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/result.h"

namespace vmfork {

// The guest writes as fast as it likes; what JavaScript is too slow for is lost, the oldest first.
constexpr size_t kMostConsoleBytes = 64u << 10;

void VmEvents::OnExit(uint32_t machine, const Error& reason) {
  Send([self = shared_from_this(), machine, reason](const JsTurn& turn) {
    if (self->muted_) return;
    Napi::Object event = self->NewEvent(turn.env, "exit");
    event.Set("machine", Napi::Number::New(turn.env, machine));
    event.Set("code", std::string(ErrorCodeName(reason.code)));
    event.Set("message", reason.ToString());
    turn.on_event.Call({event});
  });
}

void VmEvents::OnConnection(uint32_t port, uint32_t guest_port, UniqueFd fd) {
  Send([self = shared_from_this(), port, guest_port,
        fd = std::move(fd)](const JsTurn& turn) mutable {
    if (self->muted_) return;
    Napi::Object event = self->NewEvent(turn.env, "connection");
    event.Set("port", Napi::Number::New(turn.env, port));
    event.Set("guestPort", Napi::Number::New(turn.env, guest_port));
    event.Set("fd", Napi::Number::New(turn.env, fd.Get()));
    // From here on it is the receiver's, whatever the receiver does or throws. Had the environment
    // been ending, making the event would have failed and `fd` been closed.
    fd.Release();
    turn.on_event.Call({event});
  });
}

void VmEvents::OnConsole(std::span<const std::byte> bytes) {
  if (muted_) return;
  const std::span newest = bytes.last(std::min(bytes.size(), kMostConsoleBytes));
  std::lock_guard lock(mutex_);
  // SAFETY: bytes are read as chars.
  console_.append(reinterpret_cast<const char*>(newest.data()), newest.size());
  // Trimmed once in a while, not each time: moving the rest takes long, and JavaScript may wait for
  // the lock.
  if (console_.size() > 2 * kMostConsoleBytes)
    console_.erase(0, console_.size() - kMostConsoleBytes);
  if (std::exchange(console_sent_, true)) return;
  SendLocked([self = shared_from_this()](const JsTurn& turn) { self->SendConsole(turn); });
}

void VmEvents::SendConsole(const JsTurn& turn) {
  std::string bytes;
  {
    std::lock_guard lock(mutex_);
    bytes.swap(console_);
    console_sent_ = false;
  }
  if (muted_) return;
  if (bytes.size() > kMostConsoleBytes) bytes.erase(0, bytes.size() - kMostConsoleBytes);
  auto array = Napi::Uint8Array::New(turn.env, bytes.size());
  std::memcpy(array.Data(), bytes.data(), bytes.size());
  Napi::Object event = NewEvent(turn.env, "console");
  event.Set("bytes", array);
  turn.on_event.Call({event});
}

void VmEvents::Open() {
  std::lock_guard lock(mutex_);
  open_ = true;
  for (EventPump::Task& task : std::exchange(held_, {})) pump_->Post(std::move(task));
}

void VmEvents::Mute() {
  muted_ = true;  // first, so that a busy guest's threads stay away from the lock
  std::vector<EventPump::Task> dropped;
  std::lock_guard lock(mutex_);
  dropped.swap(held_);
  console_.clear();
}

void VmEvents::Send(EventPump::Task task) {
  std::lock_guard lock(mutex_);
  SendLocked(std::move(task));
}

void VmEvents::SendLocked(EventPump::Task task) {
  if (muted_) return;
  if (open_)
    pump_->Post(std::move(task));
  else
    held_.push_back(std::move(task));
}

Napi::Object VmEvents::NewEvent(Napi::Env env, const char* kind) const {
  Napi::Object event = Napi::Object::New(env);
  event.Set("kind", kind);
  event.Set("vm", Napi::Number::New(env, vm_id_));
  return event;
}

}  // namespace vmfork
