// EndReporter: tells a VM's observer that its guest has ended, once, and why.
#pragma once

#include <atomic>
#include <memory>

#include "base/result.h"
#include "vm/options.h"

namespace vmfork {

class Machine;

// Hears of the machine's end on any thread. Shared with the machine, so that it outlives a Vm being
// destroyed.
class EndReporter {
 public:
  explicit EndReporter(std::shared_ptr<VmObserver> observer) : observer_(std::move(observer)) {}

  // Before the machine's vCPUs run; it must stay until they are joined.
  void SetMachine(Machine* machine) { machine_ = machine; }
  void Report(Error reason);
  // Nothing is reported any more.
  void Silence() { reported_ = true; }

 private:
  const std::shared_ptr<VmObserver> observer_;
  Machine* machine_ = nullptr;
  std::atomic<bool> reported_ = false;
};

}  // namespace vmfork
