// Kvm: /dev/kvm itself. One method = one ioctl; what to do with the answer is decided elsewhere.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kvm/vm_fd.h"

namespace vmfork {

class Kvm {
 public:
  // Errors: kKvmMissing, kKvmDenied, kSystem.
  static Result<Kvm> Open();

  Result<int> ApiVersion() const;                                // KVM_GET_API_VERSION
  int CheckExtension(uint32_t capability) const;                 // KVM_CHECK_EXTENSION; 0 = absent
  Result<VmFd> CreateVm() const;                                 // KVM_CREATE_VM; repeated on EINTR
  Result<size_t> VcpuMappingSize() const;                        // KVM_GET_VCPU_MMAP_SIZE
  Result<std::vector<kvm_cpuid_entry2>> SupportedCpuid() const;  // KVM_GET_SUPPORTED_CPUID
  Result<std::vector<uint32_t>> MsrIndexList() const;            // KVM_GET_MSR_INDEX_LIST

 private:
  explicit Kvm(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace vmfork
