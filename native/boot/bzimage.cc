// bzImage kernels: the protected-mode part is copied to its preferred address and entered at its
// 64-bit entry point (Documentation/arch/x86/boot.rst). The file is not trusted.
#include <cstring>
#include <string>

#include "boot/kernel_image.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
// Offsets of setup header fields from the start of the file; boot.rst, "Details of Header Fields".
constexpr size_t kSetupSects = 0x1f1;
constexpr size_t kHeaderLengthByte = 0x201;  // 0x202 + this = end of the header
constexpr size_t kVersion = 0x206;
constexpr size_t kXloadflags = 0x236;
constexpr size_t kPrefAddress = 0x258;
constexpr size_t kInitSize = 0x260;
constexpr uint16_t kVersionWith64BitEntry = 0x020c;
constexpr uint16_t kXlfKernel64 = 1;
constexpr uint64_t k64BitEntryOffset = 0x200;

template <typename T>
T Field(std::span<const std::byte> file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

std::unexpected<Error> Invalid(std::string detail) {
  return Fail(ErrorCode::kKernelInvalid, "load kernel", "bzImage: " + std::move(detail));
}
}  // namespace

Result<LoadedKernel> LoadBzImage(const GuestMemory& memory, std::span<const std::byte> file) {
  if (file.size() < kInitSize + sizeof(uint32_t)) return Invalid("truncated header");
  const auto version = Field<uint16_t>(file, kVersion);
  if (version < kVersionWith64BitEntry) return Invalid("boot protocol older than 2.12");
  if ((Field<uint16_t>(file, kXloadflags) & kXlfKernel64) == 0) {
    return Fail(ErrorCode::kKernelArch, "load kernel",
                "bzImage without a 64-bit entry point: a 32-bit kernel");
  }
  auto setup_sectors = Field<uint8_t>(file, kSetupSects);
  if (setup_sectors == 0) setup_sectors = 4;  // boot.rst: for backwards compatibility
  const size_t setup_size = (size_t{setup_sectors} + 1) * 512;
  const size_t header_end = 0x202 + Field<uint8_t>(file, kHeaderLengthByte);
  if (setup_size >= file.size() || header_end > setup_size || header_end <= kInitSize) {
    return Invalid("setup part reaches past the end of the file");
  }
  const auto load_address = Field<uint64_t>(file, kPrefAddress);
  const auto init_size = Field<uint32_t>(file, kInitSize);
  const auto body = file.subspan(setup_size);
  if (load_address < layout::kLowReservedEnd.value) return Invalid("preferred address below 1 MiB");
  if (init_size < body.size() || !memory.Slice(Gpa{load_address}, init_size)) {
    return Fail(ErrorCode::kMemorySize, "load kernel",
                "the kernel needs " + std::to_string(init_size) + " bytes at " +
                    std::to_string(load_address));
  }
  memory.Write(Gpa{load_address}, body);
  const auto header = file.subspan(kSetupSects, header_end - kSetupSects);
  return LoadedKernel{.entry = Gpa{load_address + k64BitEntryOffset},
                      .end = load_address + init_size,
                      .setup_header = {header.begin(), header.end()}};
}

}  // namespace vmfork
