// VcpuFd: one virtual processor and its kvm_run page. One method = one ioctl. Get and Set calls
// wait in the kernel while the vCPU runs, so callers park it first.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

// sizeof(kvm_xsave) in C; in C++ its empty struct adds four bytes.
inline constexpr size_t kXsaveBytes = 4096;

class VcpuFd {
 public:
  static Result<VcpuFd> Adopt(UniqueFd fd, size_t mapping_size);

  // KVM_RUN: 0 or errno (EINTR, EAGAIN, EFAULT …); the exit is described in Run().
  int Enter() const;
  kvm_run& Run() const;

  // kvm structures that are read and written whole.
  Result<void> Get(kvm_regs& value) const;
  Result<void> Get(kvm_sregs& value) const;
  Result<void> Get(kvm_xcrs& value) const;
  Result<void> Get(kvm_debugregs& value) const;
  Result<void> Get(kvm_vcpu_events& value) const;
  Result<void> Get(kvm_mp_state& value) const;
  Result<void> Get(kvm_lapic_state& value) const;
  Result<void> Set(const kvm_regs& value) const;
  Result<void> Set(const kvm_sregs& value) const;
  Result<void> Set(const kvm_xcrs& value) const;
  Result<void> Set(const kvm_debugregs& value) const;
  Result<void> Set(const kvm_vcpu_events& value) const;
  Result<void> Set(const kvm_mp_state& value) const;
  Result<void> Set(const kvm_lapic_state& value) const;

  // KVM_GET_XSAVE / KVM_GET_XSAVE2: `state` is at least 4096 bytes; the size is KVM_CAP_XSAVE2's
  // where there is one.
  Result<void> GetXsave(std::span<std::byte> state) const;
  Result<void> SetXsave(std::span<const std::byte> state) const;

  // KVM_GET_MSRS / KVM_SET_MSRS: how many were processed; the call stops at the first that is
  // refused.
  Result<size_t> GetMsrs(std::span<kvm_msr_entry> entries) const;
  Result<size_t> SetMsrs(std::span<const kvm_msr_entry> entries) const;

  // KVM_X86_SETUP_MCE with that many banks of registers and no other capability.
  Result<void> SetMachineCheckBanks(uint32_t count) const;
  Result<void> SetCpuid(std::span<const kvm_cpuid_entry2> entries) const;  // KVM_SET_CPUID2
  Result<uint32_t> GetTscKhz() const;                                      // KVM_GET_TSC_KHZ
  Result<void> SetTscKhz(uint32_t khz) const;                              // KVM_SET_TSC_KHZ
  Result<void> NotifyPaused()
      const;  // KVM_KVMCLOCK_CTRL: no soft-lockup report for the time it was stopped
  Result<uint64_t> Translate(
      uint64_t linear_address) const;  // KVM_TRANSLATE: guest-physical address

 private:
  VcpuFd(UniqueFd fd, Mapping run) : fd_(std::move(fd)), run_(std::move(run)) {}
  UniqueFd fd_;
  Mapping run_;
};

}  // namespace vmfork
