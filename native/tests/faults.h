// Makes one call to the kernel fail, as it would for want of memory, descriptors, space or threads:
// the n-th of those that the core makes while a fault is armed, on whichever thread. The linker
// leads the calls of faults.cc's list here (CMakeLists.txt, -Wl,--wrap), so nothing in the core
// knows of it.
//
// KVM_RUN is left out: it is the guest's time, not a step of an operation. So are calls that cannot
// fail but by a defect: KVM_IRQ_LINE, EPOLL_CTL_DEL, eventfd counters, munmap, close.
//
// The same for memory of the heap: the n-th operator new of the thread that armed it throws.
#pragma once

#include <cstddef>
#include <optional>

namespace vmfork::faults {

struct Fault {
  const char* call;
  unsigned long request;  // of an ioctl, else 0
  int error_number;
  bool elsewhere;  // on another thread than the one that armed it
};

// The `nth` call from now on fails, counted from 1.
void Arm(size_t nth);
// Nothing fails any more; the fault that was given, none when so many calls were not made.
std::optional<Fault> Disarm();
bool Given();
// The `nth` allocation of this thread from now on fails, counted from 1.
void ArmHeap(size_t nth);
// From now on, until Disarm(): the next ioctl of that number fails with `error_number`.
void ArmIoctl(unsigned long request, int error_number);

}  // namespace vmfork::faults
