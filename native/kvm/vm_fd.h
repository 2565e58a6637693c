// VmFd: one KVM virtual machine. One method = one ioctl.
#pragma once

#include <linux/kvm.h>

#include <cstdint>

#include "base/event_fd.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/vcpu_fd.h"
#include "memory/gpa.h"

namespace vmfork {

class VmFd {
 public:
  VmFd() = default;
  explicit VmFd(UniqueFd fd) : fd_(std::move(fd)) {}

  // KVM_SET_USER_MEMORY_REGION; size 0 takes the slot away
  Result<void> SetMemory(uint32_t slot, Gpa gpa, uint64_t size, const void* host) const;
  Result<void> SetTssAddress(Gpa gpa) const;          // KVM_SET_TSS_ADDR
  Result<void> SetIdentityMapAddress(Gpa gpa) const;  // KVM_SET_IDENTITY_MAP_ADDR
  Result<void> EnableCapability(uint32_t number, uint64_t argument) const;  // KVM_ENABLE_CAP
  Result<void> CreateIrqchip() const;                                       // KVM_CREATE_IRQCHIP
  // KVM_CREATE_VCPU; `mapping_size` from Kvm::VcpuMappingSize().
  Result<VcpuFd> CreateVcpu(uint32_t index, size_t mapping_size) const;

  Result<kvm_irqchip> GetIrqchip(uint32_t chip) const;  // KVM_GET_IRQCHIP
  Result<void> SetIrqchip(const kvm_irqchip& chip) const;
  Result<kvm_clock_data> GetClock() const;  // KVM_GET_CLOCK
  Result<void> SetClock(const kvm_clock_data& clock) const;

  Result<void> SetIrqLine(uint32_t gsi, bool level) const;  // KVM_IRQ_LINE
  Result<void> AddIoEventfd(const EventFd& event, Gpa gpa,
                            uint32_t width) const;  // KVM_IOEVENTFD, any value

 private:
  UniqueFd fd_;
};

}  // namespace vmfork
