// Address lookup.
#include "devices/bus.h"

#include <algorithm>

namespace vmfork {

void Bus::Add(uint64_t base, uint64_t size, BusDevice* device) {
  ranges_.push_back({base, size, device});
}

const Bus::Range* Bus::Find(uint64_t address) const {
  // A handful of devices: a scan beats a tree.
  for (const Range& range : ranges_) {
    if (address >= range.base && address - range.base < range.size) return &range;
  }
  return nullptr;
}

void Bus::Read(uint64_t address, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0xff});
  if (const Range* range = Find(address)) range->device->Read(address - range->base, data);
}

void Bus::Write(uint64_t address, std::span<const std::byte> data) const {
  if (const Range* range = Find(address)) range->device->Write(address - range->base, data);
}

}  // namespace vmfork
