// What kind of host this is and what its KVM can do.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kvm/kvm_fd.h"

namespace vmfork {

enum class HostKind {
  kHardware,  // kvm_intel or kvm_amd: the guest's kernel runs natively
  kPvm,       // kvm_pvm: KVM without VT-x or SVM; the guest's kernel is interpreted
};

struct HostInfo {
  HostKind kind = HostKind::kHardware;
  std::string cpu_vendor;  // CPUID leaf 0
  int api_version = 0;
  int max_vcpus = 0;
  std::vector<std::pair<std::string, int>>
      capabilities;                  // name without KVM_CAP_, value; 0 = absent
  std::vector<std::string> missing;  // those the engine cannot work without
};

// Reads the facts; fails only when KVM does not answer at all.
Result<HostInfo> ProbeHost(const Kvm& kvm);

}  // namespace vmfork
