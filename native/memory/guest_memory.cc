// Bounds checks.
#include "memory/guest_memory.h"

#include <atomic>
#include <cstring>

namespace vmfork {

std::optional<std::span<std::byte>> GuestMemory::Slice(Gpa gpa, uint64_t size) const {
  if (size == 0) return std::nullopt;
  for (const RamRegion& region : regions_) {
    if (gpa < region.start) break;
    const uint64_t offset = gpa.value - region.start.value;
    // Compared without adding guest-chosen numbers: nothing here can overflow.
    if (offset < region.size && size <= region.size - offset) {
      return std::span(region.host + offset, size);
    }
  }
  return std::nullopt;
}

bool GuestMemory::Read(Gpa gpa, std::span<std::byte> to) const {
  auto slice = Slice(gpa, to.size());
  if (!slice) return false;
  std::memcpy(to.data(), slice->data(), to.size());
  return true;
}

bool GuestMemory::Write(Gpa gpa, std::span<const std::byte> from) const {
  auto slice = Slice(gpa, from.size());
  if (!slice) return false;
  std::memcpy(slice->data(), from.data(), from.size());
  return true;
}

std::optional<uint16_t> GuestMemory::Load16(Gpa gpa) const {
  auto slice = Slice(gpa, sizeof(uint16_t));
  if (!slice || gpa.value % sizeof(uint16_t) != 0) return std::nullopt;
  // SAFETY: in RAM and aligned, as just checked; std::atomic_ref makes the racing access with the
  // guest defined.
  return std::atomic_ref(*reinterpret_cast<uint16_t*>(slice->data()))
      .load(std::memory_order_acquire);
}

bool GuestMemory::Store16(Gpa gpa, uint16_t value) const {
  auto slice = Slice(gpa, sizeof(uint16_t));
  if (!slice || gpa.value % sizeof(uint16_t) != 0) return false;
  // SAFETY: as in Load16.
  std::atomic_ref(*reinterpret_cast<uint16_t*>(slice->data()))
      .store(value, std::memory_order_release);
  return true;
}

}  // namespace vmfork
