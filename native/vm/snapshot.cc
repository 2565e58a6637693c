// Snapshots on disk: what is written in which order, and what is checked on the way back.
// docs/snapshot-format.md describes the files.
#include "vm/snapshot.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/out_of_memory.h"
#include "snapshot/compatibility.h"
#include "snapshot/working_set.h"
#include "vm/machine.h"

namespace vmfork {

namespace {

std::unexpected<Error> Invalid(std::string detail) {
  return Fail(ErrorCode::kSnapshotInvalid, "load snapshot", std::move(detail));
}

// The content of the drives: images that are open already, and scratch disks beside the blob. Those
// are read only; each clone makes a copy.
Result<void> OpenMedia(Engine& engine, const std::string& directory, const Manifest& manifest,
                       DecodedMachineState& decoded) {
  MachineConfig& config = decoded.state.config;
  for (BlockDisk& disk : config.disks) disk.medium = engine.Images().Share(std::move(disk.medium));
  for (size_t i = 0; i < kMediaSlots; ++i) {
    BlockDisk& disk = config.media[i];
    if (disk.medium != nullptr) disk.medium = engine.Images().Share(std::move(disk.medium));
    const uint64_t size_bytes = decoded.scratch_bytes[i];
    if (size_bytes != manifest.disks[i].size_bytes)
      return Invalid("state and manifest differ about the size of a disk");
    if (size_bytes == 0) continue;
    VMFORK_TRY(medium, BlockMedium::OpenScratch(directory + DiskName(i)));
    if (medium->SizeBytes() != size_bytes) {
      return Invalid(medium->Path() + " has " + std::to_string(medium->SizeBytes()) +
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
  VMFORK_TRY(tsc_khz, HostTscKhz(engine));
  return CheckCompatibility(state, {.info = engine.Host(),
                                    .supported_cpuid = engine.SupportedCpuid(),
                                    .vcpu_format = engine.VcpuFormat(),
                                    .tsc_khz = tsc_khz,
                                    .has_tsc_control = engine.HasTscControl()});
}

Result<DecodedMachineState> ReadState(const std::string& directory, const Manifest& manifest) {
  const std::string path = directory + kStateName;
  VMFORK_TRY(blob, ReadSmallFile(path, manifest.state_bytes));
  if (blob.size() != manifest.state_bytes || Sha256::Of(blob) != manifest.state_digest)
    return Invalid(path + " is not the one that the manifest was made with");
  VMFORK_TRY(decoded, DecodeMachineState(blob));
  if (decoded.state.config.memory_bytes != manifest.memory_bytes)
    return Invalid("state and manifest differ about the size of memory");
  return decoded;
}

// A base that has moved since would leave a snapshot behind that nobody can load.
Result<void> CheckBases(const LayerPlan& plan) {
  for (const auto& base : plan.bases) {
    VMFORK_TRY(decoded, ReadManifest(base->directory));
    if (!EqualDigests(decoded.id, base->id))
      return Invalid(base->directory + " is no longer the snapshot to save on");
  }
  return {};
}

std::vector<BaseReference> ReferTo(const LayerPlan& plan, const std::string& directory) {
  std::vector<BaseReference> references;
  for (const auto& base : plan.bases) {
    const std::filesystem::path path(base->directory);
    references.push_back({base->id, path.lexically_relative(directory).string(), path.string()});
  }
  return references;
}

}  // namespace

Snapshot::Snapshot(std::shared_ptr<const Image> image, MachineState state, std::string metadata,
                   SharedShape shape)
    : image_(std::move(image)),
      state_(std::make_shared<const MachineState>(std::move(state))),
      shape_(shape != nullptr ? std::move(shape) : Machine::Shape(state_->config, state_->cpuid)),
      metadata_(std::move(metadata)) {}

Snapshot::~Snapshot() {
  for (const auto& pool : pools_) pool->Forget(*image_);
}

void Snapshot::TellWhenGone(const std::shared_ptr<ShellPoolLink>& pool) const {
  std::lock_guard lock(pools_mutex_);
  if (std::ranges::find(pools_, pool) == pools_.end()) pools_.push_back(pool);
}

Result<std::shared_ptr<const SavedFiles>> Snapshot::OnDisk(const char* operation) const {
  std::lock_guard lock(files_mutex_);
  if (files_ != nullptr) return files_;
  return Fail(ErrorCode::kState, operation, "it is not on disk: save it first");
}

Result<void> Snapshot::CheckSound(const char* operation) const {
  return ground_ == nullptr ? Result<void>() : ground_->Check(operation);
}

Result<void> Snapshot::CheckFiles(const char* operation) const {
  std::lock_guard lock(files_mutex_);
  return files_ground_ == nullptr ? Result<void>() : files_ground_->Check(operation);
}

Result<LayerPlan> Snapshot::Plan(const SaveOptions& options) const {
  std::shared_ptr<const Image> base_image;
  SavedMemory base;
  if (options.base != nullptr) {
    VMFORK_TRY(files, options.base->OnDisk("base of a snapshot"));
    VMFORK_CHECK(options.base->CheckSound("base of a snapshot"));
    VMFORK_CHECK(options.base->CheckFiles("base of a snapshot"));
    base_image = options.base->GetImage();
    base = files->memory;
  } else if (!options.base_directory.empty()) {
    VMFORK_TRY(directory, RealPath(options.base_directory));
    VMFORK_TRY(decoded, ReadManifest(directory));
    VMFORK_TRY(memory, OpenSavedMemory(directory, decoded));
    base = std::move(memory);
    base_image = base.image;
  } else {
    return PlanWhole(*image_);
  }
  if (base_image->Size() != image_->Size()) {
    return Fail(ErrorCode::kSnapshotIncompatible, "save snapshot",
                "the base has " + std::to_string(base_image->Size()) +
                    " bytes of memory, this snapshot " + std::to_string(image_->Size()));
  }
  VMFORK_TRY(plan, PlanDifference(*image_, *base_image, base));
  return plan ? std::move(*plan) : PlanWhole(*image_);
}

Result<SavedFiles> Snapshot::Write(PendingDirectory& pending, const LayerPlan& plan,
                                   const SaveOptions& options, const std::string& directory,
                                   uint64_t& memory_bytes) const {
  Manifest manifest;
  manifest.memory_bytes = image_->Size();
  manifest.extents = plan.extents;
  manifest.bases = ReferTo(plan, directory);
  VMFORK_CHECK(pending.AddFile(kMemoryName, [&](int fd) -> Result<void> {
    VMFORK_TRY(digests, WriteMemory(fd, *image_, plan.extents, memory_bytes));
    manifest.memory_digests = std::move(digests);
    return {};
  }));
  SavedFiles files;
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const BlockDisk& disk = state_->config.media[i];
    if (!disk.IsWritable()) continue;
    const auto& medium = disk.medium;
    const PageRun whole = WholeDisk(medium->SizeBytes());
    VMFORK_CHECK(pending.AddFile(DiskName(i), [&](int fd) -> Result<void> {
      VMFORK_CHECK(medium->CopyTo(fd));
      VMFORK_TRY(digests, DigestFile(fd, std::span(&whole, 1)));
      manifest.disks[i] = {medium->SizeBytes(), std::move(digests)};
      return {};
    }));
    VMFORK_TRY(file, OpenSized(pending.Path() + DiskName(i), medium->SizeBytes()));
    files.disks[i] = {std::move(file), manifest.disks[i]};
  }
  const std::vector<std::byte> blob = EncodeMachineState(*state_, options.metadata);
  VMFORK_CHECK(pending.AddFile(kStateName, [&blob](int fd) { return WriteFully(fd, blob, 0); }));
  manifest.state_bytes = blob.size();
  manifest.state_digest = Sha256::Of(blob);
  const EncodedManifest encoded = EncodeManifest(manifest, options.key);
  VMFORK_CHECK(pending.AddFile(kManifestName,
                               [&encoded](int fd) { return WriteFully(fd, encoded.bytes, 0); }));

  VMFORK_TRY(file, OpenSized(pending.Path() + kMemoryName, manifest.memory_bytes));
  std::vector<std::shared_ptr<const SavedLayer>> layers = plan.bases;
  layers.insert(layers.begin(), std::make_shared<const SavedLayer>(
                                    SavedLayer{encoded.id, directory, std::move(file),
                                               manifest.RunsOf(0), manifest.memory_digests}));
  VMFORK_TRY(memory,
             AssembleSavedMemory(std::move(layers), manifest.extents, manifest.memory_bytes));
  files.memory = std::move(memory);
  return files;
}

Result<SaveReport> Snapshot::Save(const std::string& directory, const SaveOptions& options) const {
  return CatchNoMemory("save snapshot", [&] { return SaveWithMemory(directory, options); });
}

Result<SaveReport> Snapshot::SaveWithMemory(const std::string& directory,
                                            const SaveOptions& options) const {
  if (::access(directory.c_str(), F_OK) == 0) return FailErrno(EEXIST, "save snapshot", directory);
  VMFORK_CHECK(CheckSound("save snapshot"));  // it would get digests that fit the damage
  VMFORK_TRY(real_directory, RealPath(directory));
  VMFORK_TRY(plan, Plan(options));
  VMFORK_CHECK(CheckBases(plan));
  VMFORK_TRY(pending, PendingDirectory::Create(real_directory));
  uint64_t memory_bytes = 0;
  VMFORK_TRY(written, Write(pending, plan, options, real_directory, memory_bytes));
  auto files = std::make_shared<const SavedFiles>(std::move(written));
  auto ground = std::make_shared<Ground>();
  SaveReport report{DigestText(files->Own().id), files->memory.layers.size(), memory_bytes};
  VMFORK_CHECK(pending.Publish());
  std::lock_guard lock(files_mutex_);
  files_ = std::move(files);
  files_ground_ = std::move(ground);
  return report;
}

Result<std::shared_ptr<Snapshot>> Snapshot::Load(Engine& engine, const std::string& directory,
                                                 const LoadOptions& options) {
  return CatchNoMemory("load snapshot", [&] { return LoadWithMemory(engine, directory, options); });
}

Result<std::shared_ptr<Snapshot>> Snapshot::LoadWithMemory(Engine& engine,
                                                           const std::string& directory,
                                                           const LoadOptions& options) {
  VMFORK_TRY(real_directory, RealPath(directory));
  VMFORK_TRY(decoded_manifest, ReadManifest(real_directory, options.key));
  const Manifest& manifest = decoded_manifest.manifest;
  VMFORK_TRY(decoded, ReadState(real_directory, manifest));
  VMFORK_CHECK(CheckHost(engine, decoded.state));
  VMFORK_CHECK(OpenMedia(engine, real_directory, manifest, decoded));
  VMFORK_TRY(files, OpenSavedFiles(real_directory, decoded_manifest));
  if (const std::string path = real_directory + kWorkingSetName;
      options.prefetch && ::access(path.c_str(), F_OK) == 0) {
    VMFORK_TRY(bytes, ReadSmallFile(path, kMaxWorkingSetBytes));
    VMFORK_TRY(runs, DecodeWorkingSet(bytes, decoded_manifest.id, manifest.memory_bytes));
    VMFORK_CHECK(Prefetch(*files.memory.image, runs));
  }
  auto snapshot = std::make_shared<Snapshot>(files.memory.image, std::move(decoded.state),
                                             std::move(decoded.metadata));
  snapshot->files_ = std::make_shared<const SavedFiles>(std::move(files));
  snapshot->ground_ = snapshot->files_ground_ = std::make_shared<Ground>();
  return snapshot;
}

Result<VerifiedPart> Snapshot::Verify(uint64_t position, VerifyMode mode) const {
  VMFORK_TRY(files, OnDisk("verify snapshot"));
  auto part = CatchNoMemory("verify snapshot", [&] { return VerifyPart(*files, position, mode); });
  if (part || part.error().code != ErrorCode::kSnapshotInvalid) return part;
  std::lock_guard lock(files_mutex_);
  if (files_ == files) files_ground_->Condemn(part.error());  // not saved again meanwhile
  return part;
}

Result<void> Snapshot::RecordWorkingSet(std::span<const PageRun> runs) const {
  return CatchNoMemory("keep runs", [&]() -> Result<void> {
    VMFORK_TRY(files, OnDisk("record working set"));
    if (!AreRunsPlausible(runs, image_->Size()))
      return Fail(ErrorCode::kState, "record working set", "the runs are not of this memory");
    return PublishFile(files->Own().directory + kWorkingSetName,
                       EncodeWorkingSet(runs, files->Own().id));
  });
}

}  // namespace vmfork
