// Makes KVM_SET_FPU take effect on a vCPU that has never run.
//
// KVM_SET_FPU writes the x87 and SSE image of the vCPU's save area but not the header that says
// which parts of it are in use (arch/x86/kvm/x86.c, kvm_arch_vcpu_ioctl_set_fpu). On a new vCPU
// that says none, and the first entry loads the initial state instead. KVM_SET_XSAVE would write
// both, but a PVM host refuses it. So the vCPU runs one FXRSTOR of a state that is nowhere initial;
// what is saved on the way out is then marked as in use.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"
#include "kvm/vcpu_fd.h"
#include "memory/gpa.h"

namespace vmfork {

// `page` is the memory behind guest page `gpa`, which lies below 640 KiB; its content is
// overwritten. The vCPU's state afterwards is undefined: write all of it. Error kInternal when the
// code does not end as it must.
Result<void> PrimeFpu(const VcpuFd& vcpu, Gpa gpa, std::span<std::byte> page);

}  // namespace vmfork
