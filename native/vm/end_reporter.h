// EndReporter: tells a VM's observer that its guest has ended, once, and why.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "vm/options.h"

namespace vmfork {

class Machine;

// Hears of the machine's end on any thread. Shared with the machine, so that it outlives a Vm being
// destroyed.
class EndReporter {
 public:
  // `number` is that of the machine, for the observer.
  EndReporter(std::shared_ptr<VmObserver> observer, uint32_t number)
      : observer_(std::move(observer)), number_(number) {}

  // Before the machine's vCPUs run; it must stay until they are joined.
  void SetMachine(Machine* machine) { machine_ = machine; }
  void Report(Error reason);
  // Nothing is reported any more.
  void Silence() { reported_ = true; }

 private:
  const std::shared_ptr<VmObserver> observer_;
  const uint32_t number_;
  Machine* machine_ = nullptr;
  std::atomic<bool> reported_ = false;
};

}  // namespace vmfork
