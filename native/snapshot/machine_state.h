// MachineState: all of a frozen VM but its memory, and its encoding as one versioned, checksummed
// blob.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/virtio/block_medium.h"
#include "kvm/host.h"
#include "snapshot/envelope.h"
#include "vcpu/vcpu_state.h"

namespace vmfork {

// Drives for media that come and go while the guest runs: the first is read-only, the second is
// not. Every machine has both; the guest names them after its fixed disks.
inline constexpr size_t kMediaSlots = 2;

struct MachineConfig {
  uint64_t memory_bytes = 0;
  uint32_t vcpus = 1;
  uint32_t cid = 0;
  std::vector<BlockDisk> disks;  // fixed, read-only images
  // What is in the drives. In a snapshot, a medium that is written to is one that nobody writes to
  // any more; each clone has its own above it.
  std::array<BlockDisk, kMediaSlots> media;
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
std::vector<std::byte> EncodeMachineState(const MachineState& state, const std::string& metadata);

struct DecodedMachineState {
  // Images are opened and compared with what the snapshot saw. Media that are written to lie beside
  // the blob: their drives are left empty.
  MachineState state;
  std::array<uint64_t, kMediaSlots> scratch_bytes{};  // sizes of those; 0: there is none
  std::string metadata;
};
// Hostile input. Errors: kSnapshotInvalid (damaged), kSnapshotIncompatible (another format version,
// or a disk that changed).
Result<DecodedMachineState> DecodeMachineState(std::span<const std::byte> blob);

}  // namespace vmfork
