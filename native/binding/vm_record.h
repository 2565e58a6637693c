// VmRecord: a VM as the binding knows it, from birth until destroyed. Any thread.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "binding/vm_events.h"
#include "vm/vm.h"

namespace vmfork {

class VmRecord {
 public:
  VmRecord(uint32_t id, std::shared_ptr<Vm> vm, std::shared_ptr<VmEvents> events)
      : id(id), events(std::move(events)), vm_(std::move(vm)) {}

  const uint32_t id;
  const std::shared_ptr<VmEvents> events;

  // kGone once destroyed.
  Result<std::shared_ptr<Vm>> Get() const {
    std::lock_guard lock(mutex_);
    if (vm_ == nullptr) return Fail(ErrorCode::kGone, "vm", "destroyed");
    return vm_;
  }

  // None once destroyed.
  std::vector<Stage> Stages() const {
    const auto vm = Get();
    return vm ? (*vm)->Stages() : std::vector<Stage>();
  }

  std::string ConsoleTail() const {
    if (const auto vm = Get()) return (*vm)->ConsoleTail();
    std::lock_guard lock(mutex_);
    return last_console_;
  }

  // Returns when the VM is gone. Idempotent; blocks.
  void Destroy() {
    auto vm = Get();
    if (!vm) return;
    (*vm)->Destroy();
    std::lock_guard lock(mutex_);
    last_console_ = (*vm)->ConsoleTail();
    vm_.reset();
  }

 private:
  mutable std::mutex mutex_;  // guards the next two
  std::shared_ptr<Vm> vm_;    // null: destroyed
  std::string last_console_;
};

}  // namespace vmfork
