// GuestMemory: bounds-checked access to a VM's RAM. All that devices do with guest memory goes
// through here.
//
// The guest runs while we read and write, so every access is a copy (never a reference that could
// change under a check), except Slice(), whose users must treat the bytes as volatile: hand them to
// the kernel (iovec) or copy them once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "memory/gpa.h"

namespace vmfork {

// One run of RAM in guest-physical space and where it is in ours.
struct RamRegion {
  Gpa start;
  uint64_t size = 0;
  std::byte* host = nullptr;
};

class GuestMemory {
 public:
  GuestMemory() = default;
  // Regions sorted by start, not overlapping. The host memory must outlive this object.
  explicit GuestMemory(std::vector<RamRegion> regions) : regions_(std::move(regions)) {}

  // The host bytes of [gpa, gpa + size), when they lie in one region. size 0 is refused.
  std::optional<std::span<std::byte>> Slice(Gpa gpa, uint64_t size) const;
  bool Read(Gpa gpa, std::span<std::byte> to) const;
  bool Write(Gpa gpa, std::span<const std::byte> from) const;

  // Naturally aligned 16/32/64-bit values, little-endian, with the memory order that queue indices
  // need (acquire on load, release on store). Empty/false when out of RAM or misaligned.
  std::optional<uint16_t> Load16(Gpa gpa) const;
  bool Store16(Gpa gpa, uint16_t value) const;

  const std::vector<RamRegion>& Regions() const { return regions_; }

 private:
  std::vector<RamRegion> regions_;
};

}  // namespace vmfork
