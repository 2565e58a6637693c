// The state blob: magic, version, checksum of all that follows, sections. docs/snapshot-format.md
// describes it byte by byte.
#include "snapshot/machine_state.h"

#include <algorithm>
#include <functional>

#include "base/byte_io.h"
#include "base/crc32c.h"
#include "memory/layout.h"

namespace vmfork {

namespace {

constexpr std::string_view kMagic = "VMFKSTAT";
constexpr size_t kMaxCpuidEntries = 256, kMaxDevices = 32;
constexpr uint32_t kMaxVcpus = 8, kMaxDisks = 4;

enum class Tag : uint32_t {
  kConfig = 1,
  kHost = 2,
  kCpuid = 3,
  kVcpu = 4,
  kIrqchips = 5,
  kClock = 6,
  kDevice = 7,
  kMetadata = 8
};

std::unexpected<Error> Damaged(std::string detail) {
  return Fail(ErrorCode::kSnapshotInvalid, "decode snapshot", std::move(detail));
}

void PutSection(ByteWriter& out, Tag tag, const std::function<void(ByteWriter&)>& fill) {
  ByteWriter section;
  fill(section);
  out.Put(static_cast<uint32_t>(tag));
  out.Put(Crc32c(section.Bytes()));
  out.Put(static_cast<uint64_t>(section.Bytes().size()));
  out.PutBytes(section.Bytes());
}

// A drive holds nothing, an image known by its path, or a scratch disk, whose content is a file
// beside this one.
enum class DriveContent : uint8_t { kEmpty = 0, kImage = 1, kScratch = 2 };

void EncodeDrive(const BlockDisk& disk, ByteWriter& out) {
  if (disk.medium == nullptr) return out.Put(static_cast<uint8_t>(DriveContent::kEmpty));
  const bool is_image = !disk.medium->IsWritable();
  out.Put(static_cast<uint8_t>(is_image ? DriveContent::kImage : DriveContent::kScratch));
  out.PutText(disk.serial);
  out.Put(disk.medium->SizeBytes());
  if (!is_image) return;
  out.PutText(disk.medium->Path());
  out.Put(disk.medium->GetIdentity().modified_ns);
}

void EncodeConfig(const MachineConfig& config, ByteWriter& out) {
  out.Put(config.memory_bytes);
  out.Put(config.vcpus);
  out.Put(config.cid);
  out.Put(static_cast<uint32_t>(config.disks.size()));
  for (const BlockDisk& disk : config.disks) EncodeDrive(disk, out);
  for (const BlockDisk& disk : config.media) EncodeDrive(disk, out);
}

Result<std::shared_ptr<const BlockMedium>> DecodeImage(ByteReader& in, uint64_t size_bytes) {
  const std::string path = in.GetText();
  const auto modified_ns = in.Get<int64_t>();
  if (!in.Ok() || path.empty() || path.find('\0') != std::string::npos) return Damaged("disk path");
  VMFORK_TRY(medium,
             BlockMedium::Open(path, BlockMedium::Kind::kImage, ErrorCode::kSnapshotIncompatible));
  // The guest's page cache holds parts of it: a changed file would be seen half old, half new.
  if (medium->SizeBytes() != size_bytes || medium->GetIdentity().modified_ns != modified_ns) {
    return Fail(ErrorCode::kSnapshotIncompatible, "load snapshot",
                path + " has changed since the snapshot was made");
  }
  return medium;
}

// The size of a scratch disk, else 0.
Result<uint64_t> DecodeDrive(ByteReader& in, BlockDisk& disk) {
  disk = {};
  const auto content = static_cast<DriveContent>(in.Get<uint8_t>());
  if (content == DriveContent::kEmpty) return 0;
  disk.serial = in.GetText();
  const auto size_bytes = in.Get<uint64_t>();
  if (!in.Ok()) return Damaged("truncated disk");
  if (content == DriveContent::kScratch) {
    if (size_bytes == 0) return Damaged("a scratch disk of no size");
    return size_bytes;
  }
  if (content != DriveContent::kImage) return Damaged("unknown kind of disk");
  VMFORK_TRY(medium, DecodeImage(in, size_bytes));
  disk.medium = std::move(medium);
  return 0;
}

Result<void> DecodeConfig(ByteReader& in, DecodedMachineState& decoded) {
  MachineConfig& config = decoded.state.config;
  config.memory_bytes = in.Get<uint64_t>();
  config.vcpus = in.Get<uint32_t>();
  config.cid = in.Get<uint32_t>();
  const auto disks = in.Get<uint32_t>();
  if (!in.Ok() || config.vcpus == 0 || config.vcpus > kMaxVcpus || disks > kMaxDisks ||
      config.memory_bytes % kPageSize != 0 || config.memory_bytes == 0 ||
      config.memory_bytes > layout::kMaxRamBytes) {
    return Damaged("implausible configuration");
  }
  config.disks.resize(disks);
  for (BlockDisk& disk : config.disks) {
    VMFORK_CHECK(DecodeDrive(in, disk));
    if (disk.medium == nullptr) return Damaged("a fixed disk that is not an image");
  }
  for (size_t i = 0; i < kMediaSlots; ++i) {
    VMFORK_TRY(scratch_bytes, DecodeDrive(in, config.media[i]));
    decoded.scratch_bytes[i] = scratch_bytes;
  }
  return {};
}

Result<void> DecodeCpuid(ByteReader& in, MachineState& state) {
  const auto count = in.Get<uint32_t>();
  if (count > kMaxCpuidEntries) return Damaged("too many CPUID leaves");
  for (uint32_t i = 0; i < count; ++i) state.cpuid.push_back(in.GetStruct<kvm_cpuid_entry2>());
  return {};
}

Result<void> DecodeHost(ByteReader& in, MachineState& state) {
  const auto kind = in.Get<uint32_t>();
  if (kind > static_cast<uint32_t>(HostKind::kPvm)) return Damaged("unknown kind of host");
  state.host_kind = static_cast<HostKind>(kind);
  state.tsc_khz = in.Get<uint32_t>();
  state.cpu_vendor = in.GetText();
  return {};
}

Result<void> DecodeDevice(ByteReader& in, MachineState& state) {
  if (state.devices.size() >= kMaxDevices) return Damaged("too many devices");
  DeviceState device{.name = in.GetText(), .bytes = {}};
  const auto bytes = in.GetBlock();
  device.bytes.assign(bytes.begin(), bytes.end());
  state.devices.push_back(std::move(device));
  return {};
}

Result<void> DecodeSection(Tag tag, ByteReader& in, DecodedMachineState& decoded) {
  MachineState& state = decoded.state;
  switch (tag) {
    case Tag::kConfig:
      return DecodeConfig(in, decoded);
    case Tag::kHost:
      return DecodeHost(in, state);
    case Tag::kCpuid:
      return DecodeCpuid(in, state);
    case Tag::kVcpu: {
      if (state.vcpus.size() >= kMaxVcpus) return Damaged("too many vCPUs");
      VMFORK_TRY(vcpu, DecodeVcpuState(in));
      state.vcpus.push_back(std::move(vcpu));
      return {};
    }
    case Tag::kIrqchips:
      for (kvm_irqchip& chip : state.irqchips) chip = in.GetStruct<kvm_irqchip>();
      return {};
    case Tag::kClock:
      state.clock = in.GetStruct<kvm_clock_data>();
      return {};
    case Tag::kDevice:
      return DecodeDevice(in, state);
    case Tag::kMetadata:
      decoded.metadata = in.GetText();
      return {};
  }
  return Damaged("unknown section " + std::to_string(static_cast<uint32_t>(tag)));
}

Result<void> DecodeSections(ByteReader& in, DecodedMachineState& decoded) {
  while (in.Remaining() > 0) {
    const auto tag = static_cast<Tag>(in.Get<uint32_t>());
    const auto checksum = in.Get<uint32_t>();
    const auto bytes = in.GetBytes(in.Get<uint64_t>());
    const std::string name = "section " + std::to_string(static_cast<uint32_t>(tag));
    if (!in.Ok()) return Damaged(name + " is truncated");
    if (Crc32c(bytes) != checksum) return Damaged(name + " has a wrong checksum");
    ByteReader section(bytes);
    VMFORK_CHECK(DecodeSection(tag, section, decoded));
    if (!section.AtEnd()) return Damaged(name + " has a wrong length");
  }
  return {};
}

}  // namespace

std::vector<std::byte> EncodeMachineState(const MachineState& state, const std::string& metadata) {
  ByteWriter sections;
  PutSection(sections, Tag::kConfig, [&](ByteWriter& out) { EncodeConfig(state.config, out); });
  PutSection(sections, Tag::kHost, [&](ByteWriter& out) {
    out.Put(static_cast<uint32_t>(state.host_kind));
    out.Put(state.tsc_khz);
    out.PutText(state.cpu_vendor);
  });
  PutSection(sections, Tag::kCpuid, [&](ByteWriter& out) {
    out.Put(static_cast<uint32_t>(state.cpuid.size()));
    for (const kvm_cpuid_entry2& entry : state.cpuid) out.PutStruct(entry);
  });
  for (const VcpuState& vcpu : state.vcpus) {
    PutSection(sections, Tag::kVcpu, [&](ByteWriter& out) { EncodeVcpuState(vcpu, out); });
  }
  PutSection(sections, Tag::kIrqchips, [&](ByteWriter& out) {
    for (const kvm_irqchip& chip : state.irqchips) out.PutStruct(chip);
  });
  PutSection(sections, Tag::kClock, [&](ByteWriter& out) { out.PutStruct(state.clock); });
  for (const DeviceState& device : state.devices) {
    PutSection(sections, Tag::kDevice, [&](ByteWriter& out) {
      out.PutText(device.name);
      out.PutBlock(device.bytes);
    });
  }
  PutSection(sections, Tag::kMetadata, [&](ByteWriter& out) { out.PutText(metadata); });

  return SealEnvelope(kMagic, sections.Bytes());
}

Result<DecodedMachineState> DecodeMachineState(std::span<const std::byte> blob) {
  VMFORK_TRY(sections, OpenEnvelope(kMagic, blob, "decode snapshot", "state file"));
  ByteReader in(sections);
  DecodedMachineState decoded;
  VMFORK_CHECK(DecodeSections(in, decoded));
  const MachineState& state = decoded.state;
  if (state.config.memory_bytes == 0 || state.vcpus.size() != state.config.vcpus ||
      state.cpuid.empty() || state.devices.empty()) {
    return Damaged("a section is missing");
  }
  return decoded;
}

}  // namespace vmfork
