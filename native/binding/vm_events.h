// VmEvents: hears of what one VM does by itself and passes it to JavaScript as NativeEvents
// (src/native.ts).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "binding/event_pump.h"
#include "vm/options.h"

namespace vmfork {

class VmEvents : public VmObserver, public std::enable_shared_from_this<VmEvents> {
 public:
  VmEvents(std::shared_ptr<EventPump> pump, uint32_t vm_id)
      : pump_(std::move(pump)), vm_id_(vm_id) {}

  void OnExit(uint32_t machine, const Error& reason) override;
  void OnConnection(uint32_t port, uint32_t guest_port, UniqueFd fd) override;
  void OnConsole(std::span<const std::byte> bytes) override;

  // Until then events are held back: JavaScript cannot tell whose they are before it has the VM's
  // object.
  void Open();
  // From now on events are dropped, also those under way.
  void Mute();

 private:
  void Send(EventPump::Task task);
  void SendLocked(EventPump::Task task);
  Napi::Object NewEvent(Napi::Env env, const char* kind) const;
  void SendConsole(const JsTurn& turn);

  const std::shared_ptr<EventPump> pump_;
  const uint32_t vm_id_;
  std::atomic<bool> muted_ = false;
  std::mutex mutex_;  // guards all below
  bool open_ = false;
  std::vector<EventPump::Task> held_;
  std::string console_;  // not yet with JavaScript; one event at most is under way for it
  bool console_sent_ = false;
};

}  // namespace vmfork
