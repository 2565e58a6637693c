// Snapshots on disk: a directory with `state` (the blob) and `memory` (sparse, laid out like RAM).
#include "vm/snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/file.h"
#include "memory/capture.h"
#include "memory/private_view.h"

namespace vmfork {

namespace {

constexpr char kStateName[] = "/state", kMemoryName[] = "/memory";

std::string ScratchName(size_t drive) { return "/disk" + std::to_string(drive); }

// A directory under a temporary name beside its final one; what was written is removed again unless
// Publish() succeeded.
class PendingDirectory {
 public:
  static Result<PendingDirectory> Create(const std::string& final_path) {
    std::string path = final_path + ".XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) return FailErrno("mkdtemp", path);
    return PendingDirectory(std::move(path), final_path);
  }
  ~PendingDirectory() {
    if (path_.empty()) return;
    ::unlink((path_ + kStateName).c_str());
    ::unlink((path_ + kMemoryName).c_str());
    for (size_t i = 0; i < kMediaSlots; ++i) ::unlink((path_ + ScratchName(i)).c_str());
    ::rmdir(path_.c_str());
  }
  PendingDirectory(PendingDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})), final_path_(std::move(other.final_path_)) {}
  PendingDirectory(const PendingDirectory&) = delete;

  // Creates a file in it, has `write` fill it, and sees that it is on disk.
  template <typename Write>
  Result<void> AddFile(const std::string& name, Write write) {
    const std::string file_path = path_ + name;
    UniqueFd fd(::open(file_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd.IsValid()) return FailErrno("open", file_path);
    VMFORK_CHECK(write(fd.Get()));
    if (::fsync(fd.Get()) != 0) return FailErrno("fsync", file_path);
    return {};
  }

  Result<void> Publish() {
    VMFORK_CHECK(SyncDirectory(path_));
    // rename(2) replaces an empty directory only: an existing snapshot is never overwritten.
    if (::rename(path_.c_str(), final_path_.c_str()) != 0) return FailErrno("rename", final_path_);
    path_.clear();
    const size_t slash = final_path_.find_last_of('/');
    return SyncDirectory(slash == std::string::npos ? "." : final_path_.substr(0, slash + 1));
  }

 private:
  PendingDirectory(std::string path, std::string final_path)
      : path_(std::move(path)), final_path_(std::move(final_path)) {}
  static Result<void> SyncDirectory(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.IsValid() || ::fsync(fd.Get()) != 0) return FailErrno("fsync", path);
    return {};
  }
  std::string path_;
  std::string final_path_;
};

// The content of the drives: images that are open already, and scratch disks beside the blob. Those
// are read only; each clone makes a copy.
Result<void> OpenMedia(Engine& engine, const std::string& directory, DecodedMachineState& decoded) {
  MachineConfig& config = decoded.state.config;
  for (BlockDisk& disk : config.disks) disk.medium = engine.Images().Share(std::move(disk.medium));
  for (size_t i = 0; i < kMediaSlots; ++i) {
    BlockDisk& disk = config.media[i];
    if (disk.medium != nullptr) disk.medium = engine.Images().Share(std::move(disk.medium));
    const uint64_t size_bytes = decoded.scratch_bytes[i];
    if (size_bytes == 0) continue;
    VMFORK_TRY(medium, BlockMedium::OpenScratch(directory + ScratchName(i)));
    if (medium->SizeBytes() != size_bytes) {
      return Fail(ErrorCode::kSnapshotInvalid, "load snapshot",
                  medium->Path() + " has " + std::to_string(medium->SizeBytes()) +
                      " bytes instead of " + std::to_string(size_bytes));
    }
    disk.medium = std::move(medium);
  }
  return {};
}

// The rate a vCPU has when nobody sets one; only a vCPU can be asked.
Result<uint32_t> HostTscKhz(const Engine& engine) {
  VMFORK_TRY(vm, engine.GetKvm().CreateVm());
  VMFORK_TRY(vcpu, vm.CreateVcpu(0, engine.VcpuMappingSize()));
  return vcpu.GetTscKhz();
}

Result<void> CheckHost(const Engine& engine, const MachineState& state) {
  const auto refuse = [](std::string detail) {
    return Fail(ErrorCode::kSnapshotIncompatible, "load snapshot", std::move(detail));
  };
  if (state.host_kind != engine.Host().kind)
    return refuse("made on the other kind of host (hardware, PVM)");
  if (state.cpu_vendor != engine.Host().cpu_vendor) {
    return refuse("made on a " + state.cpu_vendor + " processor, this is a " +
                  engine.Host().cpu_vendor);
  }
  for (const VcpuState& vcpu : state.vcpus) {
    // KVM_SET_XSAVE takes as much as this host's processor has, whatever the buffer holds.
    if (vcpu.xsave.size() != engine.VcpuFormat().xsave_bytes) {
      return refuse("its FPU state has another size than this processor's");
    }
  }
  // The guest counts time in cycles between two looks at kvm-clock. KVM tolerates 250 ppm itself
  // (tsc_tolerance_ppm).
  VMFORK_TRY(tsc_khz, HostTscKhz(engine));
  const uint32_t difference =
      state.tsc_khz > tsc_khz ? state.tsc_khz - tsc_khz : tsc_khz - state.tsc_khz;
  if (difference > tsc_khz / 4000 && !engine.HasTscControl()) {
    return refuse("its TSC ran at " + std::to_string(state.tsc_khz) + " kHz, this host's runs at " +
                  std::to_string(tsc_khz) + " kHz");
  }
  // Features that the guest's kernel has found at boot and will go on to use.
  for (const kvm_cpuid_entry2& seen : state.cpuid) {
    if (seen.function != 1 && seen.function != 7 && seen.function != 0x8000'0001) continue;
    for (const kvm_cpuid_entry2& here : engine.SupportedCpuid()) {
      if (here.function != seen.function || here.index != seen.index) continue;
      constexpr uint32_t kEmulatedInLeaf1 =
          1U << 31 | 1U << 24 | 1U << 21;      // hypervisor, TSC deadline, x2APIC
      constexpr uint32_t kOsxsave = 1U << 27;  // follows CR4, not the processor
      const uint32_t ignored = seen.function == 1 ? kEmulatedInLeaf1 | kOsxsave : 0;
      const uint32_t ignored_edx = seen.function == 1 ? 1U << 28 : 0;
      const bool lacks_ebx = seen.function == 7 && (seen.ebx & ~here.ebx) != 0;
      if ((seen.ecx & ~here.ecx & ~ignored) != 0 || (seen.edx & ~here.edx & ~ignored_edx) != 0 ||
          lacks_ebx) {
        return refuse("this processor lacks features that the guest uses");
      }
    }
  }
  return {};
}

}  // namespace

Result<void> Snapshot::Save(const std::string& directory, const std::string& metadata) const {
  if (::access(directory.c_str(), F_OK) == 0) return FailErrno(EEXIST, "save snapshot", directory);
  VMFORK_TRY(pending, PendingDirectory::Create(directory));
  VMFORK_CHECK(pending.AddFile(kMemoryName, [this](int fd) -> Result<void> {
    if (::ftruncate(fd, static_cast<off_t>(image_->Size())) != 0)
      return FailErrno("ftruncate", "memory");
    VMFORK_TRY(view, PrivateView::Map(image_));
    return WriteSparse(fd, std::span(view.Data(), view.Size()), 0);
  }));
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const auto& medium = state_.config.media[i].medium;
    if (medium == nullptr || !medium->IsWritable()) continue;
    VMFORK_CHECK(pending.AddFile(ScratchName(i), [&medium](int fd) { return medium->CopyTo(fd); }));
  }
  const std::vector<std::byte> blob = EncodeMachineState(state_, metadata);
  VMFORK_CHECK(pending.AddFile(kStateName, [&blob](int fd) { return WriteFully(fd, blob, 0); }));
  return pending.Publish();
}

Result<std::shared_ptr<Snapshot>> Snapshot::Load(Engine& engine, const std::string& directory) {
  VMFORK_TRY(state_file, File::OpenReadOnly(directory + kStateName, ErrorCode::kSnapshotInvalid));
  VMFORK_TRY(blob, state_file->ReadAll());
  VMFORK_TRY(decoded, DecodeMachineState(blob));
  VMFORK_CHECK(CheckHost(engine, decoded.state));
  VMFORK_CHECK(OpenMedia(engine, directory, decoded));
  VMFORK_TRY(memory_file, File::OpenReadOnly(directory + kMemoryName, ErrorCode::kSnapshotInvalid));
  const uint64_t size = decoded.state.config.memory_bytes;
  if (memory_file->Size() != size) {
    return Fail(ErrorCode::kSnapshotInvalid, "load snapshot",
                "memory has " + std::to_string(memory_file->Size()) + " bytes instead of " +
                    std::to_string(size));
  }
  UniqueFd fd(::fcntl(memory_file->Get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsValid()) return FailErrno("fcntl", "F_DUPFD_CLOEXEC");
  auto file = std::make_shared<const UniqueFd>(std::move(fd));
  VMFORK_TRY(image, Image::Make(size, {{0, size, std::move(file), 0}}));
  return std::make_shared<Snapshot>(std::move(image), std::move(decoded.state),
                                    std::move(decoded.metadata));
}

}  // namespace vmfork
