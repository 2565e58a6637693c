// XSAVE and XRSTOR on bytes, and the walk of page tables, against what the
// manuals say.
#include "vcpu/xsave.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "tests/test.h"
#include "vcpu/linear_memory.h"

namespace vmfork {
namespace {

constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4, kEnabled = kX87 | kSse | kAvx;
constexpr size_t kXmm = 160, kMxcsr = 24, kStateBv = 512;

// As KVM_GET_XSAVE gives it: a byte everywhere, default MXCSR, these components
// in use.
std::vector<std::byte> Area(std::byte fill, uint64_t in_use) {
  std::vector<std::byte> area(4096, fill);
  std::fill_n(area.begin() + kStateBv, 64, std::byte{0});
  std::memcpy(area.data() + kStateBv, &in_use, sizeof in_use);
  const std::array<uint32_t, 2> mxcsr{0x1f80, 0xffff};
  std::memcpy(area.data() + kMxcsr, mxcsr.data(), sizeof mxcsr);
  return area;
}

uint64_t InUse(const std::vector<std::byte>& area) {
  uint64_t value = 0;
  std::memcpy(&value, area.data() + kStateBv, sizeof value);
  return value;
}

TEST(XsaveStoresWhatWasAskedForAndNothingElse) {
  const auto state = Area(std::byte{0x11}, kX87 | kSse);
  auto area = Area(std::byte{0xee}, kAvx);
  StoreXsave(state, kSse, area);
  EXPECT_TRUE(area[kXmm] == std::byte{0x11} && area[415] == std::byte{0x11});
  EXPECT_TRUE(area[0] == std::byte{0xee} && area[416] == std::byte{0xee});
  EXPECT_EQ(InUse(area), kSse | kAvx);
}

TEST(XrstorTakesWhatMemoryHoldsAndInitsTheRest) {
  auto state = Area(std::byte{0x11}, kEnabled);
  const auto area = Area(std::byte{0x22}, kX87);
  EXPECT_TRUE(LoadXsave(area, kX87 | kSse, kEnabled, state));
  EXPECT_TRUE(state[0] == std::byte{0x22});
  // SSE is in its initial configuration now, AVX was not asked for.
  EXPECT_EQ(InUse(state), kX87 | kAvx);
}

TEST(XrstorKeepsAnMxcsrThatComesWithoutRegisters) {
  auto state = Area(std::byte{0x11}, kEnabled);
  auto area = Area(std::byte{0x22}, 0);
  const uint32_t rounding_up = 0x5f80;
  std::memcpy(area.data() + kMxcsr, &rounding_up, sizeof rounding_up);
  EXPECT_TRUE(LoadXsave(area, kSse, kEnabled, state));
  EXPECT_EQ(std::memcmp(state.data() + kMxcsr, &rounding_up, sizeof rounding_up), 0);
  EXPECT_TRUE(state[kXmm] == std::byte{0} && (InUse(state) & kSse) != 0);
}

TEST(XrstorRefusesWhatRaisesAProtectionFault) {
  const auto before = Area(std::byte{0x11}, kEnabled);
  auto state = before;
  EXPECT_FALSE(LoadXsave(Area(std::byte{0}, 1ULL << 62), kEnabled, kEnabled, state));
  auto compacted = Area(std::byte{0}, kX87);
  compacted[527] = std::byte{0x80};
  EXPECT_FALSE(LoadXsave(compacted, kEnabled, kEnabled, state));
  auto mxcsr = Area(std::byte{0}, kSse);
  mxcsr[kMxcsr + 3] = std::byte{1};
  EXPECT_FALSE(LoadXsave(mxcsr, kSse, kEnabled, state));
  EXPECT_TRUE(state == before);
}

TEST(XsaveExtentCoversTheRegistersOfThisProcessor) {
  EXPECT_EQ(XsaveExtent(kX87 | kSse), kXsaveHeaderEnd);
  EXPECT_GE(XsaveExtent(~0ULL), kXsaveHeaderEnd);
  EXPECT_LE(XsaveExtent(~0ULL), size_t{1} << 16);
}

// Memory with one table of each level in pages 1 to 4; the last one maps 512
// pages.
class Tables {
 public:
  Tables() {
    for (uint64_t level = 1; level < 4; ++level) Put(level, 0, (level + 1) * kPageSize | 3);
  }
  void Put(uint64_t table, uint64_t index, uint64_t entry) {
    std::memcpy(&bytes_[table * kPageSize + index * sizeof entry], &entry, sizeof entry);
  }
  uint64_t Get(uint64_t table, uint64_t index) const {
    uint64_t entry = 0;
    std::memcpy(&entry, &bytes_[table * kPageSize + index * sizeof entry], sizeof entry);
    return entry;
  }
  void Map(uint64_t page, uint64_t frame, uint64_t flags) {
    Put(4, page, frame * kPageSize | flags);
  }
  std::byte& At(uint64_t gpa) { return bytes_[gpa]; }
  const GuestMemory& Memory() const { return memory_; }
  LinearMemory Linear() const {
    kvm_sregs sregs{};
    sregs.cr3 = kPageSize;
    return LinearMemory(memory_, sregs);
  }

 private:
  struct alignas(kPageSize) Page {
    std::array<std::byte, kPageSize> bytes;
  };
  std::vector<Page> pages_ = std::vector<Page>(16);
  std::byte* bytes_ = pages_[0].bytes.data();
  GuestMemory memory_{{RamRegion{Gpa{0}, 16 * kPageSize, bytes_}}};
};

TEST(LinearMemoryFollowsPagesThatLieApart) {
  Tables tables;
  tables.Map(0, 9, 3);
  tables.Map(1, 7, 3);
  const std::array<std::byte, 4> bytes{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  EXPECT_FALSE(tables.Linear().Write(kPageSize - 2, bytes).has_value());
  EXPECT_TRUE(tables.At(10 * kPageSize - 1) == std::byte{2});
  EXPECT_TRUE(tables.At(7 * kPageSize) == std::byte{3});
  // Accessed and dirty, as the processor would leave them.
  EXPECT_EQ(tables.Get(4, 1) & 0x60, uint64_t{0x60});
  EXPECT_EQ(tables.Get(3, 0) & 0x60, uint64_t{0x20});
  std::array<std::byte, 4> read{};
  EXPECT_FALSE(tables.Linear().Read(kPageSize - 2, read).has_value());
  EXPECT_TRUE(read == bytes);
}

TEST(LinearMemoryFaultsAsTheProcessorWould) {
  Tables tables;
  tables.Map(0, 9, 3);
  tables.Map(1, 7, 1);
  tables.Map(3, 1 << 20, 3);  // outside of memory
  std::array<std::byte, 8> bytes{};
  const auto missing = tables.Linear().Read(2 * kPageSize + 8, bytes);
  EXPECT_TRUE(missing && missing->address == 2 * kPageSize + 8 && missing->error_code == 0);
  const auto read_only = tables.Linear().Write(kPageSize - 4, bytes);
  EXPECT_TRUE(read_only && read_only->address == kPageSize && read_only->error_code == 3);
  EXPECT_TRUE(tables.Linear().Read(3 * kPageSize, bytes).has_value());
  EXPECT_TRUE(tables.Linear().Read(1ULL << 40, bytes).has_value());
}

TEST(LinearMemoryKnowsLargePages) {
  Tables tables;
  tables.Put(3, 1, 0x83);  // 2 MiB at frame 0
  tables.At(5 * kPageSize + 7) = std::byte{42};
  std::array<std::byte, 1> byte{};
  EXPECT_FALSE(tables.Linear().Read((2 << 20) + 5 * kPageSize + 7, byte).has_value());
  EXPECT_TRUE(byte[0] == std::byte{42});
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
