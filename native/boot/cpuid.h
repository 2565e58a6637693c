// The CPUID that guests see: what KVM supports, fitted to the host.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "kvm/host.h"

namespace vmfork {

// `supported` is KVM_GET_SUPPORTED_CPUID's answer. The result is the same for all vCPUs but for
// CpuidOf()'s changes.
std::vector<kvm_cpuid_entry2> FitCpuid(std::vector<kvm_cpuid_entry2> supported,
                                       const HostInfo& host, uint32_t vcpus);

// `common` with vCPU `index`'s APIC id.
std::vector<kvm_cpuid_entry2> CpuidOf(std::vector<kvm_cpuid_entry2> common, uint32_t index);

}  // namespace vmfork
