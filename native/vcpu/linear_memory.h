// Guest memory by linear address: what ring 0 of a 64-bit guest would reach, by
// a walk of its page tables (AMD APM 2, section 5.3; Intel SDM 3A,
// section 4.5).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kvm/vcpu_fd.h"
#include "memory/guest_memory.h"

namespace vmfork {

// What the processor would raise as #PF: CR2 and the error code.
struct PageFault {
  uint64_t address = 0;
  uint32_t error_code = 0;
};

class LinearMemory {
 public:
  // CR3 and CR4 are taken from `sregs`. `memory` must outlive this object.
  LinearMemory(const GuestMemory& memory, const kvm_sregs& sregs);

  // Each returns the fault of the first page that cannot be reached; the bytes
  // before it may have been moved.
  std::optional<PageFault> Read(uint64_t address, std::span<std::byte> to) const;
  std::optional<PageFault> Write(uint64_t address, std::span<const std::byte> from) const;

 private:
  // The host's bytes from `address` to the end of its page; empty when the walk
  // ends in a fault.
  std::span<std::byte> Page(uint64_t address, bool write, uint32_t& error_code) const;

  const GuestMemory& memory_;
  uint64_t root_;
  int levels_;
};

}  // namespace vmfork
