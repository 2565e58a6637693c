// Everything a Linux kernel finds in memory when it is entered at its 64-bit entry point: the zero
// page with the memory map, the command line, the initramfs, a seed for its random numbers,
// descriptor and page tables, and the processor table.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "boot/kernel_image.h"
#include "memory/guest_memory.h"

namespace vmfork {

struct BootData {
  std::string cmdline;
  std::span<const std::byte> initrd;
  std::span<const std::byte> rng_seed;
  uint32_t vcpus = 1;
};

// Errors: kMemorySize when the initramfs does not fit, kKernelInvalid when the command line is too
// long.
Result<void> WriteBootData(const GuestMemory& memory, const LoadedKernel& kernel,
                           const BootData& data);

// Registers of the first processor at that entry point; `sregs` as KVM_GET_SREGS gave them.
void SetBootSregs(kvm_sregs& sregs);
kvm_regs BootRegs(const LoadedKernel& kernel);

// Writes an Intel MultiProcessor Specification 1.4 table for `vcpus` processors and one I/O APIC.
Result<void> WriteMpTable(const GuestMemory& memory, uint32_t vcpus);

}  // namespace vmfork
