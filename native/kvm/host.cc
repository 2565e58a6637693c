// Capability and host detection.
#include "kvm/host.h"

#include <cpuid.h>
#include <unistd.h>

#include <cstring>

namespace vmfork {

namespace {
struct Capability {
  uint32_t number;
  const char* name;
  bool required;
};

#define VMFORK_CAPABILITY(name, required) \
  Capability { KVM_CAP_##name, #name, required }
constexpr Capability kCapabilities[] = {
    VMFORK_CAPABILITY(IRQCHIP, true),       VMFORK_CAPABILITY(USER_MEMORY, true),
    VMFORK_CAPABILITY(SET_TSS_ADDR, true),  VMFORK_CAPABILITY(EXT_CPUID, true),
    VMFORK_CAPABILITY(MP_STATE, true),      VMFORK_CAPABILITY(IRQFD, true),
    VMFORK_CAPABILITY(IOEVENTFD, true),     VMFORK_CAPABILITY(VCPU_EVENTS, true),
    VMFORK_CAPABILITY(DEBUGREGS, true),     VMFORK_CAPABILITY(XSAVE, true),
    VMFORK_CAPABILITY(ADJUST_CLOCK, true),  VMFORK_CAPABILITY(IMMEDIATE_EXIT, true),
    VMFORK_CAPABILITY(GET_TSC_KHZ, true),   VMFORK_CAPABILITY(XCRS, false),
    VMFORK_CAPABILITY(XSAVE2, false),       VMFORK_CAPABILITY(KVMCLOCK_CTRL, false),
    VMFORK_CAPABILITY(TSC_CONTROL, false),  VMFORK_CAPABILITY(TSC_DEADLINE_TIMER, false),
    VMFORK_CAPABILITY(SYNC_REGS, false),    VMFORK_CAPABILITY(NESTED_STATE, false),
    VMFORK_CAPABILITY(READONLY_MEM, false), VMFORK_CAPABILITY(DIRTY_LOG_RING, false),
};
#undef VMFORK_CAPABILITY

std::string CpuVendor() {
  unsigned eax = 0;
  unsigned words[3] = {};
  if (__get_cpuid(0, &eax, &words[0], &words[2], &words[1]) == 0) return "unknown";
  char vendor[sizeof words + 1] = {};
  std::memcpy(vendor, words, sizeof words);
  return vendor;
}
}  // namespace

Result<HostInfo> ProbeHost(const Kvm& kvm) {
  HostInfo info;
  VMFORK_TRY(version, kvm.ApiVersion());
  info.api_version = version;
  // There is no capability that tells the two apart; the module's name does.
  info.kind = ::access("/sys/module/kvm_pvm", F_OK) == 0 ? HostKind::kPvm : HostKind::kHardware;
  info.cpu_vendor = CpuVendor();
  info.max_vcpus = kvm.CheckExtension(KVM_CAP_MAX_VCPUS);
  for (const Capability& capability : kCapabilities) {
    const int value = kvm.CheckExtension(capability.number);
    info.capabilities.emplace_back(capability.name, value);
    if (capability.required && value == 0) info.missing.emplace_back(capability.name);
  }
  return info;
}

}  // namespace vmfork
