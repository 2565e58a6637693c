// The walk. Tables lie in memory that the guest may change meanwhile: each
// entry is read once.
#include "vcpu/linear_memory.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace vmfork {

namespace {

constexpr uint64_t kPresent = 1, kWritable = 2, kAccessed = 1 << 5, kDirty = 1 << 6,
                   kLargePage = 1 << 7;
constexpr uint64_t kFrameBits = 0x000f'ffff'ffff'f000;
constexpr uint64_t kCr4La57 = 1 << 12;
constexpr uint32_t kFaultProtection = 1, kFaultWrite = 2;
constexpr int kIndexBits = 9, kPageBits = 12;

}  // namespace

LinearMemory::LinearMemory(const GuestMemory& memory, const kvm_sregs& sregs)
    : memory_(memory),
      root_(sregs.cr3 & kFrameBits),
      levels_((sregs.cr4 & kCr4La57) != 0 ? 5 : 4) {}

std::span<std::byte> LinearMemory::Page(uint64_t address, bool write, uint32_t& error_code) const {
  error_code = write ? kFaultWrite : 0;
  uint64_t table = root_;
  for (int level = levels_; level > 0; --level) {
    const int shift = kPageBits + (level - 1) * kIndexBits;
    const uint64_t index = (address >> shift) & ((1U << kIndexBits) - 1);
    const auto slot = memory_.Slice(Gpa{table + index * sizeof(uint64_t)}, sizeof(uint64_t));
    if (!slot) return {};
    // SAFETY: a table is page-aligned, so its entries are 8-byte aligned.
    const std::atomic_ref entry(*reinterpret_cast<uint64_t*>(slot->data()));
    const uint64_t value = entry.load(std::memory_order_acquire);
    if ((value & kPresent) == 0) return {};
    // CR0.WP is set in every kernel worth the name: ring 0 may not write what
    // is read-only either.
    if (write && (value & kWritable) == 0) {
      error_code |= kFaultProtection;
      return {};
    }
    const bool leaf = level == 1 || (level <= 3 && (value & kLargePage) != 0);
    const uint64_t marks = leaf && write ? kAccessed | kDirty : kAccessed;
    if ((value & marks) != marks) entry.fetch_or(marks);
    table = value & kFrameBits;
    if (!leaf) continue;
    const uint64_t offset_mask = (1ULL << shift) - 1;
    const uint64_t gpa = (table & ~offset_mask) | (address & offset_mask);
    return memory_.Slice(Gpa{gpa}, kPageSize - address % kPageSize)
        .value_or(std::span<std::byte>{});
  }
  return {};
}

std::optional<PageFault> LinearMemory::Read(uint64_t address, std::span<std::byte> to) const {
  while (!to.empty()) {
    uint32_t error_code = 0;
    const auto page = Page(address, false, error_code);
    if (page.empty()) return PageFault{address, error_code};
    const size_t count = std::min(page.size(), to.size());
    std::memcpy(to.data(), page.data(), count);
    to = to.subspan(count);
    address += count;
  }
  return {};
}

std::optional<PageFault> LinearMemory::Write(uint64_t address,
                                             std::span<const std::byte> from) const {
  while (!from.empty()) {
    uint32_t error_code = 0;
    const auto page = Page(address, true, error_code);
    if (page.empty()) return PageFault{address, error_code};
    const size_t count = std::min(page.size(), from.size());
    std::memcpy(page.data(), from.data(), count);
    from = from.subspan(count);
    address += count;
  }
  return {};
}

}  // namespace vmfork
