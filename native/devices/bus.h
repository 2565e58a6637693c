// Bus: finds the device behind an I/O port or MMIO address. One VM has two, made before its vCPUs
// run and never changed after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vmfork {

// A device's registers. Called on vCPU threads, any of them at once: a device has its own lock.
// `offset` is relative to the device's range and lies in it; data.size() is 1, 2, 4 or 8 and may
// reach past the range (the device must not care).
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  virtual void Read(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void Write(uint64_t offset, std::span<const std::byte> data) = 0;
};

class Bus {
 public:
  // Ranges must not overlap.
  void Add(uint64_t base, uint64_t size, BusDevice* device);
  // An access that nobody answers reads as all ones and writes nowhere, as on a PC's bus.
  void Read(uint64_t address, std::span<std::byte> data) const;
  void Write(uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    uint64_t base;
    uint64_t size;
    BusDevice* device;
  };
  const Range* Find(uint64_t address) const;
  std::vector<Range> ranges_;
};

}  // namespace vmfork
