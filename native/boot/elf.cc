// ELF64 kernels (vmlinux): program headers are copied to their physical addresses. The file is not
// trusted.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "boot/kernel_image.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
std::unexpected<Error> Invalid(std::string detail) {
  return Fail(ErrorCode::kKernelInvalid, "load kernel", "ELF: " + std::move(detail));
}

Result<Elf64_Ehdr> ReadHeader(std::span<const std::byte> file) {
  Elf64_Ehdr header;
  if (file.size() < sizeof header) return Invalid("truncated header");
  std::memcpy(&header, file.data(), sizeof header);
  // The class first: the fields of a 32-bit header lie elsewhere, but e_machine does not.
  if (header.e_machine != EM_X86_64 || header.e_ident[EI_CLASS] != ELFCLASS64) {
    return Fail(ErrorCode::kKernelArch, "load kernel",
                "ELF machine " + std::to_string(header.e_machine) + ", x86-64 is " +
                    std::to_string(EM_X86_64));
  }
  if (header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return Invalid("unknown layout");
  }
  const uint64_t table_size = uint64_t{header.e_phnum} * sizeof(Elf64_Phdr);
  if (header.e_phoff > file.size() || table_size > file.size() - header.e_phoff) {
    return Invalid("program headers reach past the end of the file");
  }
  return header;
}

Result<void> LoadSegment(const GuestMemory& memory, std::span<const std::byte> file,
                         const Elf64_Phdr& segment) {
  if (segment.p_offset > file.size() || segment.p_filesz > file.size() - segment.p_offset) {
    return Invalid("a segment reaches past the end of the file");
  }
  if (segment.p_filesz > segment.p_memsz)
    return Invalid("a segment is larger in the file than in memory");
  if (segment.p_paddr < layout::kLowReservedEnd.value) return Invalid("a segment lies below 1 MiB");
  if (!memory.Slice(Gpa{segment.p_paddr}, segment.p_memsz)) {
    return Fail(ErrorCode::kMemorySize, "load kernel",
                "a segment of " + std::to_string(segment.p_memsz) + " bytes at " +
                    std::to_string(segment.p_paddr) + " does not fit into guest memory");
  }
  // The rest of the segment (.bss) is zero already: memory is new.
  if (segment.p_filesz > 0)
    memory.Write(Gpa{segment.p_paddr}, file.subspan(segment.p_offset, segment.p_filesz));
  return {};
}
}  // namespace

Result<LoadedKernel> LoadElf(const GuestMemory& memory, std::span<const std::byte> file) {
  VMFORK_TRY(header, ReadHeader(file));
  LoadedKernel kernel{.entry = Gpa{header.e_entry}, .end = 0, .setup_header = {}};
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, file.data() + header.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    VMFORK_CHECK(LoadSegment(memory, file, segment));
    kernel.end = std::max(kernel.end, segment.p_paddr + segment.p_memsz);
  }
  if (kernel.end == 0) return Invalid("nothing to load");
  if (!memory.Slice(kernel.entry, 1)) return Invalid("the entry point lies outside of memory");
  return kernel;
}

}  // namespace vmfork
