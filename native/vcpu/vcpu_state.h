// VcpuState: everything that is in a virtual processor, in the order in which KVM wants it read and
// written.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <vector>

#include "base/byte_io.h"
#include "base/result.h"
#include "kvm/vcpu_fd.h"

namespace vmfork {

struct VcpuState {
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  kvm_xcrs xcrs{};
  bool has_xcrs = false;
  std::vector<std::byte> xsave;  // KVM_CAP_XSAVE2's size, at least 4096
  kvm_debugregs debugregs{};
  kvm_lapic_state lapic{};
  std::vector<kvm_msr_entry> msrs;  // readable and writable ones of GuestMsrs(); the TSC first
  kvm_vcpu_events events{};
};

// What of it depends on the host.
struct VcpuStateFormat {
  size_t xsave_bytes = kXsaveBytes;
  bool has_xcrs = false;
  bool has_triple_fault = false;  // among the events, where the VM has the capability enabled
  std::vector<uint32_t> msr_indices;
};

// Banks of machine check registers that a vCPU is given: each adds to its state, and nothing here
// reports machine checks to guests.
inline constexpr uint32_t kMachineCheckBanks = 1;
// Those of KVM_GET_MSR_INDEX_LIST, and what it leaves out though a guest can write to it.
std::vector<uint32_t> GuestMsrs(std::vector<uint32_t> listed);

// The vCPU must be parked. Reading has no lasting effect on it.
Result<VcpuState> ReadVcpuState(const VcpuFd& vcpu, const VcpuStateFormat& format);
// The same of a vCPU that has not run yet. Leaves out the MSRs that cannot be written: what is left
// are those that a guest can have changed.
Result<VcpuState> ReadFreshVcpuState(const VcpuFd& vcpu, const VcpuStateFormat& format);
// What has to be written to bring a vCPU from one state into another: what is equal is not.
struct VcpuChange {
  bool sregs = false, xcrs = false, xsave = false, regs = false, debugregs = false, lapic = false;
  bool mp_state = false, events = false;
  std::vector<kvm_msr_entry> msrs;
};
VcpuChange FindVcpuChange(const VcpuState& now, const VcpuState& wanted);
// Into a vCPU that has its CPUID and is in the state from which `change` leads to `wanted`. Error
// kSnapshotIncompatible when the host refuses a register.
Result<void> WriteVcpuState(const VcpuFd& vcpu, const VcpuState& wanted, const VcpuChange& change);
// All of `state`, whatever the vCPU has done before. `state` must have every MSR that a guest can
// change. Its time stamp counter is left far from any that a snapshot could have: KVM takes a value
// near the one it expects for an attempt to synchronize vCPUs, and does not set it
// (kvm_synchronize_tsc() in arch/x86/kvm/x86.c).
Result<void> ResetVcpuState(const VcpuFd& vcpu, const VcpuState& state);
// Has its time stamp counter begin, as that of a new one does.
Result<void> StartTsc(const VcpuFd& vcpu);
// `state` without what runs by itself or has KVM look at guest memory (the APIC, whose timer may be
// armed; the MSRs of time and of KVM's own interfaces): that is as in `fresh`.
VcpuState VcpuStateAtRest(const VcpuState& state, const VcpuState& fresh);

void EncodeVcpuState(const VcpuState& state, ByteWriter& out);
// Hostile input: lengths are checked, values are KVM's to judge. Error: kSnapshotInvalid.
Result<VcpuState> DecodeVcpuState(ByteReader& in);

}  // namespace vmfork
