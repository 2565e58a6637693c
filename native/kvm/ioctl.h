// ioctl numbers that <linux/kvm.h> gets wrong when compiled as C++, and one call helper.
//
// kvm_cpuid2, kvm_msrs, kvm_msr_list, kvm_signal_mask and kvm_xsave end in a flexible array
// declared through an empty struct on older headers; an empty struct has size 1 in C++, which
// changes the size encoded in the number. The numbers below are the kernel's (asm-generic/ioctl.h
// encoding with the C sizes).
#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <string>

#include "base/result.h"

namespace vmfork::kvm_ioctl {

inline constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
inline constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
inline constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);
inline constexpr unsigned long kGetXsave2 = _IOC(_IOC_READ, KVMIO, 0xcf, 4096);

static_assert(kGetMsrIndexList == 0xc004ae02);
static_assert(kGetSupportedCpuid == 0xc008ae05);
static_assert(kGetMsrs == 0xc008ae88);
static_assert(kSetMsrs == 0x4008ae89);
static_assert(kSetCpuid2 == 0x4008ae90);
static_assert(kGetXsave == 0x9000aea4);
static_assert(kSetXsave == 0x5000aea5);
static_assert(kGetXsave2 == 0x9000aecf);

// One ioctl; a negative answer becomes an Error that carries `name` and errno. EINTR is the
// caller's to handle.
template <typename Argument>
Result<int> Call(int fd, unsigned long request, Argument argument, const char* name) {
  int value = ::ioctl(fd, request, argument);
  if (value < 0) return FailErrno(name);
  return value;
}

}  // namespace vmfork::kvm_ioctl
