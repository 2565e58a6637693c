// Loading a guest into a machine that has not run.
#include "vm/guest_loader.h"

#include <sys/random.h>

#include <array>
#include <string>

#include "base/file.h"
#include "boot/boot_params.h"
#include "boot/cpuid.h"
#include "boot/kernel_image.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
Result<std::vector<std::byte>> ReadFile(const std::string& path) {
  if (path.empty()) return {};
  VMFORK_TRY(file, File::OpenReadOnly(path, ErrorCode::kKernelNotFound));
  return file->ReadAll();
}
}  // namespace

Result<void> CheckMemorySize(uint64_t bytes) {
  if (bytes >= layout::kMinRamBytes && bytes <= layout::kMaxRamBytes && bytes % kPageSize == 0)
    return {};
  return Fail(ErrorCode::kMemorySize, "boot",
              std::to_string(bytes >> 20) + " MiB; from " +
                  std::to_string(layout::kMinRamBytes >> 20) + " to " +
                  std::to_string(layout::kMaxRamBytes >> 20) + " MiB are possible");
}

Result<std::vector<BlockDisk>> OpenDisks(Engine& engine, const std::vector<std::string>& paths) {
  std::vector<BlockDisk> disks;
  for (const std::string& path : paths) {
    VMFORK_TRY(medium,
               BlockMedium::Open(path, BlockMedium::Kind::kImage, ErrorCode::kKernelNotFound));
    disks.push_back({.medium = engine.Images().Share(std::move(medium)),
                     .serial = "disk" + std::to_string(disks.size())});
  }
  return disks;
}

Result<void> LoadGuest(Machine& machine, const BootOptions& options) {
  VMFORK_TRY(kernel_file, ReadFile(options.kernel_path));
  VMFORK_TRY(initrd, ReadFile(options.initrd_path));
  VMFORK_TRY(kernel, LoadKernel(machine.Memory(), kernel_file));
  std::array<std::byte, 32> seed;
  if (::getrandom(seed.data(), seed.size(), 0) != static_cast<ssize_t>(seed.size()))
    return FailErrno("getrandom");
  VMFORK_CHECK(WriteBootData(machine.Memory(), kernel,
                             {.cmdline = options.cmdline + machine.MmioCmdline(),
                              .initrd = initrd,
                              .rng_seed = seed,
                              .vcpus = options.vcpus}));
  const VcpuFd& vcpu = machine.BootVcpu().Fd();
  kvm_sregs sregs{};
  VMFORK_CHECK(vcpu.Get(sregs));
  SetBootSregs(sregs);
  VMFORK_CHECK(vcpu.Set(sregs));
  return vcpu.Set(BootRegs(kernel));
}

}  // namespace vmfork
