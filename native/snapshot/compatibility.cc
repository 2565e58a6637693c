// One check for each thing of a host that a guest relies on once it runs.
#include "snapshot/compatibility.h"

#include <algorithm>
#include <cstdio>

namespace vmfork {

namespace {

std::unexpected<Error> Refuse(std::string detail) {
  return Fail(ErrorCode::kSnapshotIncompatible, "load snapshot", std::move(detail));
}

std::string Hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "%#llx", static_cast<unsigned long long>(value));
  return text;
}

Result<void> CheckKind(const MachineState& state, const HostFacts& host) {
  const auto name = [](HostKind kind) { return kind == HostKind::kPvm ? "PVM" : "hardware"; };
  if (state.host_kind != host.info.kind) {
    return Refuse(std::string("made on a host of kind ") + name(state.host_kind) +
                  ", this one is of kind " + name(host.info.kind));
  }
  if (state.cpu_vendor != host.info.cpu_vendor) {
    return Refuse("made on a " + state.cpu_vendor + " processor, this is a " +
                  host.info.cpu_vendor);
  }
  return {};
}

// Registers that KVM_SET_… would take from the buffer, or not know.
Result<void> CheckVcpu(const VcpuState& vcpu, const VcpuStateFormat& format) {
  // KVM_SET_XSAVE takes as much as this host's processor has, whatever the buffer holds.
  if (vcpu.xsave.size() != format.xsave_bytes) {
    return Refuse("its FPU state has " + std::to_string(vcpu.xsave.size()) +
                  " bytes, this processor's has " + std::to_string(format.xsave_bytes));
  }
  if (vcpu.has_xcrs && !format.has_xcrs)
    return Refuse("this KVM lacks KVM_CAP_XCRS, which it was made with");
  if ((vcpu.events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0 && !format.has_triple_fault)
    return Refuse("this KVM lacks KVM_CAP_X86_TRIPLE_FAULT_EVENT, which it was made with");
  for (const kvm_msr_entry& msr : vcpu.msrs) {
    if (std::ranges::find(format.msr_indices, msr.index) == format.msr_indices.end())
      return Refuse("this KVM does not keep MSR " + Hex(msr.index));
  }
  return {};
}

Result<void> CheckTsc(const MachineState& state, const HostFacts& host) {
  // The guest counts time in cycles between two looks at kvm-clock. KVM tolerates 250 ppm itself
  // (tsc_tolerance_ppm).
  const uint32_t difference =
      std::max(state.tsc_khz, host.tsc_khz) - std::min(state.tsc_khz, host.tsc_khz);
  if (difference <= host.tsc_khz / 4000 || host.has_tsc_control) return {};
  return Refuse("its TSC ran at " + std::to_string(state.tsc_khz) + " kHz, this host's runs at " +
                std::to_string(host.tsc_khz) + " kHz");
}

// Registers of CPUID that hold one feature in each bit (Intel SDM volume 2, CPUID; AMD APM volume
// 3, appendix E), without the bits that do not depend on the processor.
struct FeatureLeaf {
  uint32_t function, index;
  uint32_t kvm_cpuid_entry2::* reg;
  const char* name;
  uint32_t counted;
};
// Given by KVM everywhere: hypervisor, x2APIC. The TSC deadline timer is a capability. OSXSAVE
// follows CR4. The hyper-threading bit is about topology.
constexpr uint32_t kLeaf1Ecx = ~(1U << 31 | 1U << 24 | 1U << 21 | 1U << 27);
constexpr uint32_t kLeaf1Edx = ~(1U << 28);
constexpr FeatureLeaf kFeatureLeaves[] = {
    {1, 0, &kvm_cpuid_entry2::ecx, "1 ECX", kLeaf1Ecx},
    {1, 0, &kvm_cpuid_entry2::edx, "1 EDX", kLeaf1Edx},
    {7, 0, &kvm_cpuid_entry2::ebx, "7 EBX", ~0U},
    {7, 0, &kvm_cpuid_entry2::ecx, "7 ECX", ~0U},
    {7, 0, &kvm_cpuid_entry2::edx, "7 EDX", ~0U},
    {7, 1, &kvm_cpuid_entry2::eax, "7.1 EAX", ~0U},
    {0xd, 0, &kvm_cpuid_entry2::eax, "0xd EAX", ~0U},
    {0xd, 0, &kvm_cpuid_entry2::edx, "0xd EDX", ~0U},
    {0xd, 1, &kvm_cpuid_entry2::eax, "0xd.1 EAX", ~0U},
    {0x4000'0001, 0, &kvm_cpuid_entry2::eax, "0x40000001 EAX", ~0U},
    {0x8000'0001, 0, &kvm_cpuid_entry2::ecx, "0x80000001 ECX", ~0U},
    {0x8000'0001, 0, &kvm_cpuid_entry2::edx, "0x80000001 EDX", ~0U},
};

uint32_t FeaturesIn(std::span<const kvm_cpuid_entry2> cpuid, const FeatureLeaf& leaf) {
  for (const kvm_cpuid_entry2& entry : cpuid)
    if (entry.function == leaf.function && entry.index == leaf.index) return entry.*leaf.reg;
  return 0;
}

// Features that the guest's kernel has found at boot and will go on to use.
Result<void> CheckFeatures(const MachineState& state, const HostFacts& host) {
  for (const FeatureLeaf& leaf : kFeatureLeaves) {
    const uint32_t missing =
        FeaturesIn(state.cpuid, leaf) & ~FeaturesIn(host.supported_cpuid, leaf) & leaf.counted;
    if (missing != 0) {
      return Refuse(std::string("this processor lacks features that the guest uses: CPUID leaf ") +
                    leaf.name + " bits " + Hex(missing));
    }
  }
  constexpr FeatureLeaf kTscDeadline = {1, 0, &kvm_cpuid_entry2::ecx, "1 ECX", 1U << 24};
  const auto& capabilities = host.info.capabilities;
  const bool has_timer = std::ranges::any_of(capabilities, [](const auto& capability) {
    return capability.first == "TSC_DEADLINE_TIMER" && capability.second != 0;
  });
  if ((FeaturesIn(state.cpuid, kTscDeadline) & kTscDeadline.counted) != 0 && !has_timer)
    return Refuse("this KVM lacks KVM_CAP_TSC_DEADLINE_TIMER, which the guest uses");
  return {};
}

}  // namespace

Result<void> CheckCompatibility(const MachineState& state, const HostFacts& host) {
  VMFORK_CHECK(CheckKind(state, host));
  for (const VcpuState& vcpu : state.vcpus) VMFORK_CHECK(CheckVcpu(vcpu, host.vcpu_format));
  VMFORK_CHECK(CheckTsc(state, host));
  return CheckFeatures(state, host);
}

}  // namespace vmfork
