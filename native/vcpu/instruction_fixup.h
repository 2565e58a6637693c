// Finishes the few instructions that KVM's interpreter hands to user space; see
// KVM_EXIT_INTERNAL_ERROR in Documentation/virt/kvm/api.rst. They occur where a guest's kernel is
// interpreted.
#pragma once

#include "base/result.h"
#include "kvm/vcpu_fd.h"
#include "memory/guest_memory.h"

namespace vmfork {

// Call after KVM_RUN has returned KVM_EXIT_INTERNAL_ERROR. On success the vCPU can go on. Error
// kEmulation names the bytes and RIP.
Result<void> FinishInstruction(const VcpuFd& vcpu, const GuestMemory& memory);

}  // namespace vmfork
