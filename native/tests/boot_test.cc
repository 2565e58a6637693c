// Kernel loaders with hostile files, the processor table, the serial port.
#include <elf.h>
#include <sys/mman.h>

#include <cstring>
#include <numeric>

#include "base/mapping.h"
#include "boot/boot_params.h"
#include "boot/kernel_image.h"
#include "devices/serial.h"
#include "memory/layout.h"
#include "tests/test.h"

namespace vmfork {
namespace {

struct TestMemory {
  // Mapped, so that a guest costs the pages it touches: hundreds of them come and go.
  Mapping bytes =
      *Mapping::Map(64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  GuestMemory memory{{{Gpa{0}, bytes.Size(), bytes.Data()}}};
};

struct TestElf {
  Elf64_Ehdr header{};
  Elf64_Phdr segment{};
  std::vector<std::byte> body = std::vector<std::byte>(100, std::byte{0x5a});

  TestElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_phentsize = sizeof segment;
    header.e_phnum = 1;
    header.e_phoff = sizeof header;
    header.e_entry = 0x1000000;
    segment.p_type = PT_LOAD;
    segment.p_offset = sizeof header + sizeof segment;
    segment.p_paddr = 0x1000000;
    segment.p_filesz = body.size();
    segment.p_memsz = 4096;
  }
  std::vector<std::byte> Bytes() const {
    std::vector<std::byte> file(sizeof header + sizeof segment + body.size());
    std::memcpy(file.data(), &header, sizeof header);
    std::memcpy(file.data() + sizeof header, &segment, sizeof segment);
    std::memcpy(file.data() + sizeof header + sizeof segment, body.data(), body.size());
    return file;
  }
};

ErrorCode LoadCode(const std::vector<std::byte>& file) {
  TestMemory guest;
  auto loaded = LoadKernel(guest.memory, file);
  return loaded ? ErrorCode::kState : loaded.error().code;
}

TEST(ElfSegmentLandsAtItsPhysicalAddress) {
  TestMemory guest;
  auto kernel = LoadKernel(guest.memory, TestElf().Bytes());
  EXPECT_TRUE(kernel.has_value());
  EXPECT_EQ(kernel->entry.value, 0x1000000u);
  EXPECT_EQ(kernel->end, 0x1001000u);
  EXPECT_EQ(std::to_integer<int>(guest.bytes.Data()[0x1000000]), 0x5a);
}

TEST(NoKernelIsRefused) {
  EXPECT_TRUE(LoadCode({}) == ErrorCode::kKernelInvalid);
  EXPECT_TRUE(LoadCode(std::vector<std::byte>(4096)) == ErrorCode::kKernelInvalid);
}

TEST(ElfOfAnotherProcessorIsRefused) {
  TestElf elf;
  elf.header.e_machine = EM_AARCH64;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kKernelArch);
  elf.header.e_machine = EM_386;
  elf.header.e_ident[EI_CLASS] = ELFCLASS32;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kKernelArch);
}

TEST(ElfWithOverflowingOffsetsIsRefused) {
  TestElf elf;
  elf.header.e_phoff = UINT64_MAX - 8;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kKernelInvalid);
  elf = {};
  elf.segment.p_offset = UINT64_MAX - 8;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kKernelInvalid);
  elf = {};
  elf.segment.p_paddr = UINT64_MAX - 8;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kMemorySize);
  elf = {};
  elf.segment.p_memsz = 1ULL << 40;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kMemorySize);
  elf = {};
  elf.segment.p_filesz = elf.segment.p_memsz + 1;
  EXPECT_TRUE(LoadCode(elf.Bytes()) == ErrorCode::kKernelInvalid);
}

TEST(EveryTruncationOfAnElfIsRefused) {
  const std::vector<std::byte> whole = TestElf().Bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(LoadCode({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)}) !=
                ErrorCode::kState);
  }
}

std::vector<std::byte> TestBzImage() {
  std::vector<std::byte> file(5 * 512 + 1000);
  auto put = [&file](size_t at, auto value) {
    std::memcpy(file.data() + at, &value, sizeof value);
  };
  std::memcpy(file.data() + 0x202, "HdrS", 4);
  put(0x1f1, uint8_t{4});
  put(0x201, uint8_t{0x66});
  put(0x206, uint16_t{0x020f});
  put(0x236, uint16_t{1});
  put(0x258, uint64_t{0x1000000});
  put(0x260, uint32_t{0x10000});
  return file;
}

TEST(BzImageIsEnteredAtIts64BitEntry) {
  TestMemory guest;
  auto kernel = LoadKernel(guest.memory, TestBzImage());
  EXPECT_TRUE(kernel.has_value());
  EXPECT_EQ(kernel->entry.value, 0x1000200u);
  EXPECT_FALSE(kernel->setup_header.empty());
}

TEST(BzImageWithBadHeaderIsRefused) {
  auto file = TestBzImage();
  file[0x236] = std::byte{0};
  EXPECT_TRUE(LoadCode(file) == ErrorCode::kKernelArch);
  file = TestBzImage();
  file[0x1f1] = std::byte{200};
  EXPECT_TRUE(LoadCode(file) == ErrorCode::kKernelInvalid);
  file = TestBzImage();
  file[0x25f] = std::byte{0xff};
  EXPECT_TRUE(LoadCode(file) == ErrorCode::kMemorySize);
}

TEST(ProcessorTableSumsToZero) {
  TestMemory guest;
  EXPECT_TRUE(WriteMpTable(guest.memory, 4).has_value());
  auto sum = [&guest](uint64_t start, size_t size) {
    unsigned total = 0;
    for (size_t i = 0; i < size; ++i)
      total += std::to_integer<unsigned>(guest.bytes.Data()[start + i]);
    return total & 0xff;
  };
  uint16_t length = 0;
  std::memcpy(&length, guest.bytes.Data() + layout::kMpTable.value + 16 + 4, sizeof length);
  EXPECT_EQ(sum(layout::kMpTable.value, 16), 0u);
  EXPECT_EQ(sum(layout::kMpTable.value + 16, length), 0u);
  EXPECT_TRUE(16 + length <= 1024);
}

TEST(BootDataRefusesWhatDoesNotFit) {
  TestMemory guest;
  auto kernel = LoadKernel(guest.memory, TestElf().Bytes());
  const std::vector<std::byte> initrd(64 << 20);
  auto result = WriteBootData(guest.memory, *kernel,
                              {.cmdline = "", .initrd = initrd, .rng_seed = {}, .vcpus = 1});
  EXPECT_TRUE(result.error().code == ErrorCode::kMemorySize);
  result =
      WriteBootData(guest.memory, *kernel,
                    {.cmdline = std::string(5000, 'x'), .initrd = {}, .rng_seed = {}, .vcpus = 1});
  EXPECT_FALSE(result.has_value());
}

TEST(SerialKeepsTheNewestOutput) {
  int interrupts = 0;
  Serial serial([&interrupts] { ++interrupts; });
  serial.SetCapacity(10);
  for (int i = 0; i < 1000; ++i) {
    const std::byte byte{static_cast<uint8_t>('a' + i % 26)};
    serial.Write(0, std::span(&byte, 1));
  }
  const std::string tail = serial.Tail();
  EXPECT_EQ(tail.size(), 10u);
  EXPECT_EQ(tail.back(), static_cast<char>('a' + 999 % 26));
  EXPECT_EQ(interrupts, 0);
}

TEST(SerialStateSurvivesSaveAndRestore) {
  Serial one([] {}), two([] {});
  const std::byte value{0x02};
  one.Write(1, std::span(&value, 1));
  one.Write(7, std::span(&value, 1));
  ByteWriter out;
  one.Save(out);
  ByteReader in(out.Bytes());
  EXPECT_TRUE(two.Restore(in).has_value());
  std::byte read{};
  two.Read(1, std::span(&read, 1));
  EXPECT_EQ(std::to_integer<int>(read), 2);
  ByteReader truncated(out.Bytes().first(3));
  EXPECT_FALSE(two.Restore(truncated).has_value());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
