// ioctls of a vCPU.
#include "kvm/vcpu_fd.h"

#include <sys/mman.h>

#include <cstring>

#include "kvm/ioctl.h"

namespace vmfork {

namespace {
template <typename Argument>
Result<void> CallVoid(const UniqueFd& fd, unsigned long request, Argument argument,
                      const char* name) {
  auto result = kvm_ioctl::Call(fd.Get(), request, argument, name);
  if (!result) return std::unexpected(std::move(result).error());
  return {};
}

// struct kvm_msrs: u32 count, u32 padding, entries.
std::vector<std::byte> PackMsrs(std::span<const kvm_msr_entry> entries) {
  std::vector<std::byte> packed(8 + entries.size_bytes());
  const auto count = static_cast<uint32_t>(entries.size());
  std::memcpy(packed.data(), &count, sizeof count);
  if (count > 0) std::memcpy(packed.data() + 8, entries.data(), entries.size_bytes());
  return packed;
}
}  // namespace

Result<VcpuFd> VcpuFd::Adopt(UniqueFd fd, size_t mapping_size) {
  VMFORK_TRY(run, Mapping::Map(mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.Get(), 0));
  return VcpuFd(std::move(fd), std::move(run));
}

int VcpuFd::Enter() const { return ::ioctl(fd_.Get(), KVM_RUN, 0) == 0 ? 0 : errno; }

// SAFETY: the mapping is made by KVM for exactly this structure and is page-aligned.
kvm_run& VcpuFd::Run() const { return *reinterpret_cast<kvm_run*>(run_.Data()); }

Result<void> VcpuFd::Get(kvm_regs& v) const {
  return CallVoid(fd_, KVM_GET_REGS, &v, "KVM_GET_REGS");
}
Result<void> VcpuFd::Get(kvm_sregs& v) const {
  return CallVoid(fd_, KVM_GET_SREGS, &v, "KVM_GET_SREGS");
}
Result<void> VcpuFd::Get(kvm_xcrs& v) const {
  return CallVoid(fd_, KVM_GET_XCRS, &v, "KVM_GET_XCRS");
}
Result<void> VcpuFd::Get(kvm_debugregs& v) const {
  return CallVoid(fd_, KVM_GET_DEBUGREGS, &v, "KVM_GET_DEBUGREGS");
}
Result<void> VcpuFd::Get(kvm_vcpu_events& v) const {
  return CallVoid(fd_, KVM_GET_VCPU_EVENTS, &v, "KVM_GET_VCPU_EVENTS");
}
Result<void> VcpuFd::Get(kvm_mp_state& v) const {
  return CallVoid(fd_, KVM_GET_MP_STATE, &v, "KVM_GET_MP_STATE");
}
Result<void> VcpuFd::Get(kvm_lapic_state& v) const {
  return CallVoid(fd_, KVM_GET_LAPIC, &v, "KVM_GET_LAPIC");
}
Result<void> VcpuFd::Set(const kvm_regs& v) const {
  return CallVoid(fd_, KVM_SET_REGS, &v, "KVM_SET_REGS");
}
Result<void> VcpuFd::Set(const kvm_sregs& v) const {
  return CallVoid(fd_, KVM_SET_SREGS, &v, "KVM_SET_SREGS");
}
Result<void> VcpuFd::Set(const kvm_xcrs& v) const {
  return CallVoid(fd_, KVM_SET_XCRS, &v, "KVM_SET_XCRS");
}
Result<void> VcpuFd::Set(const kvm_debugregs& v) const {
  return CallVoid(fd_, KVM_SET_DEBUGREGS, &v, "KVM_SET_DEBUGREGS");
}
Result<void> VcpuFd::Set(const kvm_vcpu_events& v) const {
  return CallVoid(fd_, KVM_SET_VCPU_EVENTS, &v, "KVM_SET_VCPU_EVENTS");
}
Result<void> VcpuFd::Set(const kvm_mp_state& v) const {
  return CallVoid(fd_, KVM_SET_MP_STATE, &v, "KVM_SET_MP_STATE");
}
Result<void> VcpuFd::Set(const kvm_lapic_state& v) const {
  return CallVoid(fd_, KVM_SET_LAPIC, &v, "KVM_SET_LAPIC");
}

Result<void> VcpuFd::GetXsave(std::span<std::byte> state) const {
  const bool large = state.size() > kXsaveBytes;
  return CallVoid(fd_, large ? kvm_ioctl::kGetXsave2 : kvm_ioctl::kGetXsave, state.data(),
                  large ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE");
}

Result<void> VcpuFd::SetXsave(std::span<const std::byte> state) const {
  return CallVoid(fd_, kvm_ioctl::kSetXsave, state.data(), "KVM_SET_XSAVE");
}

Result<size_t> VcpuFd::GetMsrs(std::span<kvm_msr_entry> entries) const {
  std::vector<std::byte> packed = PackMsrs(entries);
  VMFORK_TRY(count, kvm_ioctl::Call(fd_.Get(), kvm_ioctl::kGetMsrs, packed.data(), "KVM_GET_MSRS"));
  if (!entries.empty()) std::memcpy(entries.data(), packed.data() + 8, entries.size_bytes());
  return static_cast<size_t>(count);
}

Result<size_t> VcpuFd::SetMsrs(std::span<const kvm_msr_entry> entries) const {
  const std::vector<std::byte> packed = PackMsrs(entries);
  VMFORK_TRY(count, kvm_ioctl::Call(fd_.Get(), kvm_ioctl::kSetMsrs, packed.data(), "KVM_SET_MSRS"));
  return static_cast<size_t>(count);
}

Result<void> VcpuFd::SetMachineCheckBanks(uint32_t count) const {
  const uint64_t capabilities = count;  // IA32_MCG_CAP: its low byte is their number
  return CallVoid(fd_, KVM_X86_SETUP_MCE, &capabilities, "KVM_X86_SETUP_MCE");
}

Result<void> VcpuFd::SetCpuid(std::span<const kvm_cpuid_entry2> entries) const {
  std::vector<std::byte> packed(8 + entries.size_bytes());
  const auto count = static_cast<uint32_t>(entries.size());
  std::memcpy(packed.data(), &count, sizeof count);
  std::memcpy(packed.data() + 8, entries.data(), entries.size_bytes());
  return CallVoid(fd_, kvm_ioctl::kSetCpuid2, packed.data(), "KVM_SET_CPUID2");
}

Result<uint32_t> VcpuFd::GetTscKhz() const {
  VMFORK_TRY(khz, kvm_ioctl::Call(fd_.Get(), KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ"));
  return static_cast<uint32_t>(khz);
}

Result<void> VcpuFd::SetTscKhz(uint32_t khz) const {
  return CallVoid(fd_, KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz), "KVM_SET_TSC_KHZ");
}

Result<void> VcpuFd::NotifyPaused() const {
  return CallVoid(fd_, KVM_KVMCLOCK_CTRL, 0, "KVM_KVMCLOCK_CTRL");
}

Result<uint64_t> VcpuFd::Translate(uint64_t linear_address) const {
  kvm_translation translation{};
  translation.linear_address = linear_address;
  VMFORK_CHECK(CallVoid(fd_, KVM_TRANSLATE, &translation, "KVM_TRANSLATE"));
  if (translation.valid == 0)
    return Fail(ErrorCode::kGone, "KVM_TRANSLATE", "address is not mapped");
  return translation.physical_address;
}

}  // namespace vmfork
