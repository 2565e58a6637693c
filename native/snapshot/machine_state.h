// MachineState: all of a frozen VM but its memory, and its encoding as one versioned, checksummed
// blob.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "kvm/host.h"
#include "vcpu/vcpu_state.h"

namespace vmfork {

// A read-only image behind a block device. Opened once; every clone shares it.
struct Disk {
  std::string path;
  std::shared_ptr<const File> file;
};

struct MachineConfig {
  uint64_t memory_bytes = 0;
  uint32_t vcpus = 1;
  uint32_t cid = 0;
  std::vector<Disk> disks;
};

struct DeviceState {
  std::string name;
  std::vector<std::byte> bytes;
};

struct MachineState {
  MachineConfig config;
  // The host it was made on: a blob is refused where any of these differ.
  HostKind host_kind = HostKind::kHardware;
  std::string cpu_vendor;
  uint32_t tsc_khz = 0;

  std::vector<kvm_cpuid_entry2> cpuid;  // what FitCpuid() gave
  std::vector<VcpuState> vcpus;
  std::array<kvm_irqchip, 3> irqchips{};  // two PICs, one I/O APIC
  kvm_clock_data clock{};
  std::vector<DeviceState> devices;
};

// The blob: docs/snapshot-format.md.
inline constexpr uint32_t kSnapshotFormatVersion = 1;
std::vector<std::byte> EncodeMachineState(const MachineState& state, const std::string& metadata);

struct DecodedMachineState {
  MachineState state;  // disks are opened and compared with what the snapshot saw
  std::string metadata;
};
// Hostile input. Errors: kSnapshotInvalid (damaged), kSnapshotIncompatible (another format version,
// or a disk that changed).
Result<DecodedMachineState> DecodeMachineState(std::span<const std::byte> blob);

}  // namespace vmfork
