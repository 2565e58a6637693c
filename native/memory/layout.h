// The guest-physical map: where RAM, devices and interrupts are. Fixed, so that snapshots agree on
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/gpa.h"
#include "memory/guest_memory.h"

namespace vmfork::layout {

// RAM lies below 3 GiB and from 4 GiB on; the gigabyte between holds devices, as on a PC.
inline constexpr uint64_t kLowRamEnd = 3ULL << 30;
inline constexpr uint64_t kHighRamStart = 4ULL << 30;
inline constexpr uint64_t kMinRamBytes = 32ULL << 20;
inline constexpr uint64_t kMaxRamBytes = 64ULL << 30;

inline constexpr Gpa kMmioBase{0xd000'0000};
inline constexpr uint64_t kMmioStride = 0x1000;
// Intel only: pages KVM needs for real mode; anywhere in the hole (Documentation/virt/kvm/api.rst,
// KVM_SET_TSS_ADDR).
inline constexpr Gpa kIdentityMapPage{0xfffb'c000};
inline constexpr Gpa kTssPages{0xfffb'd000};
// A page of the hole that holds nothing for longer than a moment.
inline constexpr Gpa kSparePage{0xfffb'b000};

// ISA interrupts: the serial port has 4, virtio devices follow.
inline constexpr uint32_t kSerialIrq = 4;
inline constexpr uint32_t kFirstVirtioIrq = 5;
inline constexpr uint32_t kMaxVirtioDevices = 10;

// Boot data below 640 KiB; the kernel has copied it before it uses this memory for anything else.
inline constexpr Gpa kGdt{0x500};
inline constexpr Gpa kRngSeed{0x6000};
inline constexpr Gpa kZeroPage{0x7000};
inline constexpr Gpa kPageTables{0x9000};
inline constexpr Gpa kCmdline{0x20000};
inline constexpr uint64_t kCmdlineSize = 0x1000;
inline constexpr Gpa kMpTable{0x9fc00};  // last KiB below 640 KiB: where an EBDA would be
inline constexpr Gpa kLowReservedEnd{0x100000};

// RAM of `size` bytes at `host` as regions.
inline std::vector<RamRegion> RamRegions(std::byte* host, uint64_t size) {
  if (size <= kLowRamEnd) return {{Gpa{0}, size, host}};
  return {{Gpa{0}, kLowRamEnd, host}, {Gpa{kHighRamStart}, size - kLowRamEnd, host + kLowRamEnd}};
}

}  // namespace vmfork::layout
