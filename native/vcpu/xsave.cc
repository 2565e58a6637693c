// Components are moved one by one: those that were not asked for keep what they
// have.
#include "vcpu/xsave.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace vmfork {

namespace {

constexpr int kComponents = 63;
constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4;
constexpr uint32_t kXsaveLeaf = 0xd;
// The legacy region (section 13.4.1): MXCSR stands amid x87's part but goes
// with SSE and AVX.
constexpr size_t kX87Start = 0, kMxcsr = 24, kX87Registers = 32, kXmm = 160, kXmmEnd = 416;
constexpr size_t kStateBv = 512, kReserved = 520, kHeaderEnd = kXsaveHeaderEnd;
constexpr uint32_t kMxcsrDefault = 0x1f80,
                   kMxcsrMaskDefault = 0xffbf;  // section 11.6.6
constexpr size_t kMaxRegionBytes = 1 << 16;

struct Region {
  size_t start = 0;
  size_t size = 0;
};

// Offsets and sizes are the processor's, and the guest's CPUID shows it the
// same ones.
std::array<Region, kComponents> ReadRegions() {
  std::array<Region, kComponents> regions{};
  for (uint32_t i = 2; i < kComponents; ++i) {
    uint32_t size = 0, start = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(kXsaveLeaf, i, &size, &start, &ecx, &edx) == 0) continue;
    if (start >= kHeaderEnd && start + size <= kMaxRegionBytes) regions[i] = {start, size};
  }
  return regions;
}

const std::array<Region, kComponents>& Regions() {
  static const auto regions = ReadRegions();
  return regions;
}

template <typename T>
T Get(std::span<const std::byte> bytes, size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

void PutBits(std::span<std::byte> bytes, uint64_t value) {
  std::memcpy(bytes.data() + kStateBv, &value, sizeof value);
}

void Copy(std::span<const std::byte> from, std::span<std::byte> to, size_t start, size_t end) {
  std::memcpy(to.data() + start, from.data() + start, end - start);
}

void CopyComponents(std::span<const std::byte> from, uint64_t components, std::span<std::byte> to) {
  if ((components & kX87) != 0) {
    Copy(from, to, kX87Start, kMxcsr);
    Copy(from, to, kX87Registers, kXmm);
  }
  if ((components & kSse) != 0) Copy(from, to, kXmm, kXmmEnd);
  for (int i = 2; i < kComponents; ++i) {
    const Region region = Regions()[static_cast<size_t>(i)];
    if ((components >> i & 1) != 0) Copy(from, to, region.start, region.start + region.size);
  }
}

}  // namespace

size_t XsaveExtent(uint64_t components) {
  size_t end = kHeaderEnd;
  for (int i = 2; i < kComponents; ++i) {
    const Region region = Regions()[static_cast<size_t>(i)];
    if ((components >> i & 1) != 0) end = std::max(end, region.start + region.size);
  }
  return end;
}

void StoreXsave(std::span<const std::byte> state, uint64_t components, std::span<std::byte> area) {
  CopyComponents(state, components, area);
  if ((components & (kSse | kAvx)) != 0) Copy(state, area, kMxcsr, kX87Registers);
  // Section 13.7: bits of components not asked for stay as memory has them.
  const auto in_use = Get<uint64_t>(state, kStateBv);
  PutBits(area, (Get<uint64_t>(area, kStateBv) & ~components) | (in_use & components));
}

bool LoadXsave(std::span<const std::byte> area, uint64_t components, uint64_t enabled,
               std::span<std::byte> state) {
  const auto held = Get<uint64_t>(area, kStateBv);
  // Section 13.8.1: bytes 23:8 of the header are zero; the compacted form is
  // not offered.
  const bool reserved = (Get<uint64_t>(area, kReserved) | Get<uint64_t>(area, kReserved + 8)) != 0;
  const bool takes_mxcsr = (components & (kSse | kAvx)) != 0;
  const auto mxcsr = Get<uint32_t>(area, kMxcsr);
  const auto mask = Get<uint32_t>(state, kMxcsr + 4);
  const uint32_t settable = mask != 0 ? mask : kMxcsrMaskDefault;
  if (reserved || (held & ~enabled) != 0 || (takes_mxcsr && (mxcsr & ~settable) != 0)) return false;

  uint64_t in_use = (Get<uint64_t>(state, kStateBv) & ~components) | (held & components);
  CopyComponents(area, held & components, state);
  if (takes_mxcsr) {
    std::memcpy(state.data() + kMxcsr, &mxcsr, sizeof mxcsr);
    // KVM_SET_XSAVE takes MXCSR only along with registers: those of SSE are
    // then zero.
    if ((in_use & kSse) == 0 && mxcsr != kMxcsrDefault) {
      std::fill_n(state.begin() + kXmm, kXmmEnd - kXmm, std::byte{0});
      in_use |= kSse;
    }
  }
  PutBits(state, in_use);
  return true;
}

}  // namespace vmfork
