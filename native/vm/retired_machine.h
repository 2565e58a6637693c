// RetiredMachine: one that a reset has replaced. Whoever comes first takes it down, be it a reaper
// or who cannot go on before it is gone: nobody waits for a task in a queue.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "vm/machine.h"

namespace vmfork {

class RetiredMachine {
 public:
  explicit RetiredMachine(std::unique_ptr<Machine> machine) : machine_(std::move(machine)) {}

  // Returns when it is gone. *blocks*
  void TakeDown() {
    std::lock_guard lock(mutex_);
    machine_.reset();
  }
  // Does not wait for one that is being taken down.
  bool IsGone() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    return lock && machine_ == nullptr;
  }

 private:
  std::mutex mutex_;  // guards machine_
  std::unique_ptr<Machine> machine_;
};

}  // namespace vmfork
