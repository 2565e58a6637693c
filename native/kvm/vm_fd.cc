// ioctls of a KVM VM.
#include "kvm/vm_fd.h"

#include "kvm/ioctl.h"

namespace vmfork {

namespace {
Result<void> Discard(Result<int> result) {
  if (!result) return std::unexpected(std::move(result).error());
  return {};
}
}  // namespace

Result<void> VmFd::SetMemory(uint32_t slot, Gpa gpa, uint64_t size, const void* host) const {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = gpa.value;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uint64_t>(host);
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_SET_USER_MEMORY_REGION, &region,
                                 "KVM_SET_USER_MEMORY_REGION"));
}

Result<void> VmFd::SetTssAddress(Gpa gpa) const {
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_SET_TSS_ADDR, gpa.value, "KVM_SET_TSS_ADDR"));
}

Result<void> VmFd::SetIdentityMapAddress(Gpa gpa) const {
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_SET_IDENTITY_MAP_ADDR, &gpa.value,
                                 "KVM_SET_IDENTITY_MAP_ADDR"));
}

Result<void> VmFd::EnableCapability(uint32_t number, uint64_t argument) const {
  kvm_enable_cap capability{};
  capability.cap = number;
  capability.args[0] = argument;
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_ENABLE_CAP, &capability, "KVM_ENABLE_CAP"));
}

Result<void> VmFd::CreateIrqchip() const {
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP"));
}

Result<VcpuFd> VmFd::CreateVcpu(uint32_t index, size_t mapping_size) const {
  VMFORK_TRY(fd, kvm_ioctl::Call(fd_.Get(), KVM_CREATE_VCPU, static_cast<unsigned long>(index),
                                 "KVM_CREATE_VCPU"));
  return VcpuFd::Adopt(UniqueFd(fd), mapping_size);
}

Result<kvm_irqchip> VmFd::GetIrqchip(uint32_t chip) const {
  kvm_irqchip state{};
  state.chip_id = chip;
  VMFORK_CHECK(kvm_ioctl::Call(fd_.Get(), KVM_GET_IRQCHIP, &state, "KVM_GET_IRQCHIP"));
  return state;
}

Result<void> VmFd::SetIrqchip(const kvm_irqchip& chip) const {
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP"));
}

Result<kvm_clock_data> VmFd::GetClock() const {
  kvm_clock_data clock{};
  VMFORK_CHECK(kvm_ioctl::Call(fd_.Get(), KVM_GET_CLOCK, &clock, "KVM_GET_CLOCK"));
  return clock;
}

Result<void> VmFd::SetClock(const kvm_clock_data& clock) const {
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK"));
}

Result<void> VmFd::SetIrqLine(uint32_t gsi, bool level) const {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_IRQ_LINE, &line, "KVM_IRQ_LINE"));
}

Result<void> VmFd::AddIoEventfd(const EventFd& event, Gpa gpa, uint32_t width) const {
  kvm_ioeventfd ioeventfd{};
  ioeventfd.addr = gpa.value;
  ioeventfd.len = width;
  ioeventfd.fd = event.Get();
  return Discard(kvm_ioctl::Call(fd_.Get(), KVM_IOEVENTFD, &ioeventfd, "KVM_IOEVENTFD"));
}

}  // namespace vmfork
