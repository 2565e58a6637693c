// Loads a Linux kernel into guest memory: an ELF64 vmlinux or a bzImage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "memory/guest_memory.h"

namespace vmfork {

struct LoadedKernel {
  Gpa entry;         // 64-bit entry point (Documentation/arch/x86/boot.rst, "64-bit boot protocol")
  uint64_t end = 0;  // first byte after the kernel's memory
  std::vector<std::byte> setup_header;  // a bzImage's, from offset 0x1f1 on; empty for an ELF
};

// Errors: kKernelInvalid (what is wrong), kKernelArch (which processor it is for), kMemorySize
// (kernel does not fit).
Result<LoadedKernel> LoadKernel(const GuestMemory& memory, std::span<const std::byte> file);
Result<LoadedKernel> LoadElf(const GuestMemory& memory, std::span<const std::byte> file);
Result<LoadedKernel> LoadBzImage(const GuestMemory& memory, std::span<const std::byte> file);

}  // namespace vmfork
