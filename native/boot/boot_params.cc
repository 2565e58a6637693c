// The 64-bit boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst).
#include "boot/boot_params.h"

#include <asm/bootparam.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "memory/layout.h"

namespace vmfork {

namespace {

// <asm/bootparam.h> of Linux 6.0 and later: a seed for the kernel's entropy pool.
constexpr uint32_t kSetupRngSeed = 9;
constexpr uint8_t kLoaderTypeUndefined = 0xff;
constexpr uint32_t kE820Ram = 1, kE820Reserved = 2;

template <typename T>
std::span<const std::byte> BytesOf(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

void AddE820(boot_params& params, uint64_t start, uint64_t end, uint32_t type) {
  params.e820_table[params.e820_entries++] = {.addr = start, .size = end - start, .type = type};
}

void FillE820(boot_params& params, const GuestMemory& memory) {
  AddE820(params, 0, layout::kMpTable.value, kE820Ram);
  AddE820(params, layout::kMpTable.value, layout::kLowReservedEnd.value, kE820Reserved);
  for (const RamRegion& region : memory.Regions()) {
    const uint64_t start = std::max(region.start.value, layout::kLowReservedEnd.value);
    AddE820(params, start, region.start.value + region.size, kE820Ram);
  }
}

// At the top of low RAM, out of the way of the kernel's own growth.
Result<void> PlaceInitrd(boot_params& params, const GuestMemory& memory, const LoadedKernel& kernel,
                         std::span<const std::byte> initrd) {
  if (initrd.empty()) return {};
  const uint64_t low_end = memory.Regions().front().size;
  const uint64_t size = (initrd.size() + kPageSize - 1) / kPageSize * kPageSize;
  if (size > low_end || low_end - size < kernel.end) {
    return Fail(ErrorCode::kMemorySize, "load initramfs",
                std::to_string(initrd.size()) + " bytes do not fit above the kernel");
  }
  const uint64_t start = low_end - size;
  memory.Write(Gpa{start}, initrd);
  params.hdr.ramdisk_image = static_cast<uint32_t>(start);
  params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size());
  return {};
}

void PlaceRngSeed(boot_params& params, const GuestMemory& memory, std::span<const std::byte> seed) {
  if (seed.empty()) return;
  struct {
    uint64_t next;
    uint32_t type;
    uint32_t length;
  } const header{0, kSetupRngSeed, static_cast<uint32_t>(seed.size())};
  memory.Write(layout::kRngSeed, BytesOf(header));
  memory.Write(Gpa{layout::kRngSeed.value + sizeof header}, seed);
  params.hdr.setup_data = layout::kRngSeed.value;
}

// The first 4 GiB mapped one to one with 2 MiB pages: all that a kernel may touch before it has its
// own tables.
void WritePageTables(const GuestMemory& memory) {
  constexpr uint64_t kPresentWritable = 3, kLarge = 0x80;
  constexpr size_t kEntries = 512, kDirectories = 4;
  std::array<uint64_t, kEntries> table{};
  const uint64_t base = layout::kPageTables.value;
  table[0] = (base + kPageSize) | kPresentWritable;
  memory.Write(layout::kPageTables, std::as_bytes(std::span(table)));
  table[0] = 0;
  for (size_t i = 0; i < kDirectories; ++i)
    table[i] = (base + (2 + i) * kPageSize) | kPresentWritable;
  memory.Write(Gpa{base + kPageSize}, std::as_bytes(std::span(table)));
  for (size_t directory = 0; directory < kDirectories; ++directory) {
    for (size_t i = 0; i < kEntries; ++i) {
      table[i] = ((directory * kEntries + i) << 21) | kPresentWritable | kLarge;
    }
    memory.Write(Gpa{base + (2 + directory) * kPageSize}, std::as_bytes(std::span(table)));
  }
}

constexpr uint16_t kCodeSelector = 0x10, kDataSelector = 0x18;  // boot.rst: __BOOT_CS and __BOOT_DS

void WriteGdt(const GuestMemory& memory) {
  // Null, unused, 64-bit code, data: flat, 4 GiB limit, present (Intel SDM 3A 3.4.5).
  constexpr uint64_t kGdt[] = {0, 0, 0x00af'9b00'0000'ffff, 0x00cf'9300'0000'ffff};
  memory.Write(layout::kGdt, std::as_bytes(std::span(kGdt)));
}

kvm_segment Segment(uint16_t selector, uint8_t type, bool is_code) {
  kvm_segment segment{};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = is_code ? 0 : 1;
  segment.s = 1;
  segment.l = is_code ? 1 : 0;
  segment.g = 1;
  return segment;
}

}  // namespace

Result<void> WriteBootData(const GuestMemory& memory, const LoadedKernel& kernel,
                           const BootData& data) {
  if (data.cmdline.size() >= layout::kCmdlineSize) {
    return Fail(ErrorCode::kKernelInvalid, "command line",
                std::to_string(data.cmdline.size()) + " bytes are too many");
  }
  boot_params params{};
  // A bzImage brings its setup header; for an ELF the few fields below are all the kernel looks at.
  const size_t header_size = std::min(kernel.setup_header.size(), sizeof params.hdr);
  if (header_size > 0) std::memcpy(&params.hdr, kernel.setup_header.data(), header_size);
  params.hdr.type_of_loader = kLoaderTypeUndefined;
  params.hdr.boot_flag = 0xaa55;
  params.hdr.header = 0x53726448;  // "HdrS"
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(layout::kCmdline.value);
  params.hdr.cmdline_size = static_cast<uint32_t>(data.cmdline.size());
  params.hdr.setup_data = 0;
  FillE820(params, memory);
  VMFORK_CHECK(PlaceInitrd(params, memory, kernel, data.initrd));
  PlaceRngSeed(params, memory, data.rng_seed);

  memory.Write(layout::kZeroPage, BytesOf(params));
  memory.Write(layout::kCmdline,
               std::as_bytes(std::span(data.cmdline.c_str(), data.cmdline.size() + 1)));
  WriteGdt(memory);
  WritePageTables(memory);
  return WriteMpTable(memory, data.vcpus);
}

void SetBootSregs(kvm_sregs& sregs) {
  constexpr uint64_t kCr0Pe = 1, kCr0Et = 1 << 4, kCr0Pg = 1ULL << 31, kCr4Pae = 1 << 5;
  constexpr uint64_t kEferLme = 1 << 8, kEferLma = 1 << 10;
  sregs.cs = Segment(kCodeSelector, 0xb, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = Segment(kDataSelector, 0x3, false);
  sregs.gdt.base = layout::kGdt.value;
  sregs.gdt.limit = 4 * sizeof(uint64_t) - 1;
  sregs.idt = {};
  sregs.cr0 = kCr0Pe | kCr0Et | kCr0Pg;
  sregs.cr3 = layout::kPageTables.value;
  sregs.cr4 = kCr4Pae;
  sregs.efer = kEferLme | kEferLma;
}

kvm_regs BootRegs(const LoadedKernel& kernel) {
  kvm_regs regs{};
  regs.rflags = 2;  // the bit that is always one; interrupts off
  regs.rip = kernel.entry.value;
  regs.rsi = layout::kZeroPage.value;
  return regs;
}

}  // namespace vmfork
