// CPUID leaves that need a decision (Intel SDM 2A, AMD APM 3;
// Documentation/virt/kvm/x86/cpuid.rst).
#include "boot/cpuid.h"

#include <asm/kvm_para.h>

#include <algorithm>
#include <bit>

namespace vmfork {

namespace {

// Leaf 1.
constexpr uint32_t kEcxCx16 = 1U << 13, kEcxX2apic = 1U << 21, kEcxTscDeadline = 1U << 24,
                   kEcxHypervisor = 1U << 31;
constexpr uint32_t kEcxVmx = 1U << 5;
constexpr uint32_t kEdxHtt = 1U << 28;
// Leaf 0x80000001.
constexpr uint32_t kEcxSvm = 1U << 2, kEcxTopoExt = 1U << 22;

// Leaf 0x80000007.
constexpr uint32_t kEdxInvariantTsc = 1U << 8;

// KVM's own leaf. Only the clock: every other paravirtual feature either makes hypercalls (which
// hang on hosts that interpret the guest's kernel) or keeps state in guest memory that a fork would
// have to repair.
constexpr uint32_t kKvmFeatures = 0x4000'0001;
constexpr uint32_t kKvmClockBits = 1U << KVM_FEATURE_CLOCKSOURCE | 1U << KVM_FEATURE_NOP_IO_DELAY |
                                   1U << KVM_FEATURE_CLOCKSOURCE2 |
                                   1U << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;

void FitLeaf1(kvm_cpuid_entry2& entry, const HostInfo& host, uint32_t vcpus) {
  const bool has_deadline = std::ranges::any_of(host.capabilities, [](const auto& capability) {
    return capability.first == "TSC_DEADLINE_TIMER" && capability.second != 0;
  });
  entry.ecx |= kEcxHypervisor | kEcxX2apic;
  entry.ecx &= ~kEcxVmx;
  // The in-kernel APIC has the timer whether or not the processor does; without it a kernel
  // calibrates against a PIT we lack.
  if (has_deadline) entry.ecx |= kEcxTscDeadline;
  // KVM's interpreter does not know CMPXCHG16B.
  if (host.kind == HostKind::kPvm) entry.ecx &= ~kEcxCx16;
  entry.ebx = (entry.ebx & 0x0000ffff) | (std::bit_ceil(vcpus) << 16);
  entry.edx = vcpus > 1 ? entry.edx | kEdxHtt : entry.edx & ~kEdxHtt;
}

bool IsTopologyLeaf(uint32_t function) {
  // Extended topology (Intel 0xb, 0x1f; AMD 0x8000001e, 0x80000026) would describe the host's
  // processor.
  return function == 0xb || function == 0x1f || function == 0x8000'001e || function == 0x8000'0026;
}

}  // namespace

std::vector<kvm_cpuid_entry2> FitCpuid(std::vector<kvm_cpuid_entry2> supported,
                                       const HostInfo& host, uint32_t vcpus) {
  std::erase_if(supported,
                [](const kvm_cpuid_entry2& entry) { return IsTopologyLeaf(entry.function); });
  for (kvm_cpuid_entry2& entry : supported) {
    switch (entry.function) {
      case 1:
        FitLeaf1(entry, host, vcpus);
        break;
      case 4:
        entry.eax &= 0x3fff;
        break;  // caches: shared by nobody
      case 0xa:
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;  // no performance counters: their state is large
      case kKvmFeatures:
        entry.eax &= kKvmClockBits;
        break;
      case 0x8000'0001:
        entry.ecx &= ~(kEcxSvm | kEcxTopoExt);
        break;
      // No invariant TSC: a kernel that sees it prefers the TSC, whose rate a snapshot cannot carry
      // to another host, to kvm-clock.
      case 0x8000'0007:
        entry.edx &= ~kEdxInvariantTsc;
        break;
      case 0x8000'0008:
        entry.ecx = vcpus - 1;
        break;
      default:
        break;
    }
  }
  return supported;
}

std::vector<kvm_cpuid_entry2> CpuidOf(std::vector<kvm_cpuid_entry2> common, uint32_t index) {
  for (kvm_cpuid_entry2& entry : common) {
    if (entry.function == 1) entry.ebx = (entry.ebx & 0x00ffffff) | (index << 24);
  }
  return common;
}

}  // namespace vmfork
