// Whether a host can continue what was frozen on another one.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "kvm/host.h"
#include "snapshot/machine_state.h"
#include "vcpu/vcpu_state.h"

namespace vmfork {

struct HostFacts {
  const HostInfo& info;
  std::span<const kvm_cpuid_entry2> supported_cpuid;
  const VcpuStateFormat& vcpu_format;
  uint32_t tsc_khz = 0;          // of a vCPU when nobody sets another
  bool has_tsc_control = false;  // somebody can
};

// Error: kSnapshotIncompatible, says what this host lacks.
Result<void> CheckCompatibility(const MachineState& state, const HostFacts& host);

}  // namespace vmfork
