// Tells kernel formats apart.
#include "boot/kernel_image.h"

#include <elf.h>

#include <cstring>

namespace vmfork {

Result<LoadedKernel> LoadKernel(const GuestMemory& memory, std::span<const std::byte> file) {
  if (file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0)
    return LoadElf(memory, file);
  // boot.rst: the magic "HdrS" at 0x202 of the setup header.
  if (file.size() >= 0x206 && std::memcmp(file.data() + 0x202, "HdrS", 4) == 0)
    return LoadBzImage(memory, file);
  return Fail(ErrorCode::kKernelInvalid, "load kernel", "neither an ELF file nor a bzImage");
}

}  // namespace vmfork
