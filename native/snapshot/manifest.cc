// Encoding and decoding manifests.
#include "snapshot/manifest.h"

#include <algorithm>

#include "base/byte_io.h"
#include "memory/gpa.h"
#include "memory/layout.h"
#include "snapshot/envelope.h"

namespace vmfork {

namespace {

constexpr std::string_view kMagic = "VMFKMANI";
constexpr size_t kMaxPathBytes = 4096;
constexpr uint64_t kMaxStateBytes = 64 << 20;
constexpr uint64_t kMaxDiskBytes = uint64_t{1} << 44;

std::unexpected<Error> Damaged(std::string detail) {
  return Fail(ErrorCode::kSnapshotInvalid, "decode manifest", std::move(detail));
}

Digest GetDigest(ByteReader& in) {
  Digest digest{};
  const auto bytes = in.GetBytes(digest.size());
  std::ranges::copy(bytes, digest.begin());
  return digest;
}

void PutDigests(ByteWriter& out, const std::vector<ChunkDigest>& digests) {
  out.Put(static_cast<uint32_t>(digests.size()));
  for (const ChunkDigest& chunk : digests) {
    out.Put(static_cast<uint32_t>(chunk.index));
    out.PutBytes(chunk.digest);
  }
}

// In ascending order, inside `size_bytes`.
Result<std::vector<ChunkDigest>> GetDigests(ByteReader& in, uint64_t size_bytes) {
  std::vector<ChunkDigest> digests;
  uint64_t least = 0;
  for (auto count = in.Get<uint32_t>(); count > 0 && in.Ok(); --count) {
    const ChunkDigest chunk{.index = in.Get<uint32_t>(), .digest = GetDigest(in)};
    if (chunk.index < least || chunk.index * kChunkBytes >= size_bytes)
      return Damaged("a digest of no chunk");
    least = chunk.index + 1;
    digests.push_back(chunk);
  }
  if (!in.Ok()) return Damaged("truncated digests");
  return digests;
}

Result<std::string> GetPath(ByteReader& in) {
  const auto bytes = in.GetBlock();
  std::string path(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!in.Ok() || path.empty() || path.size() > kMaxPathBytes ||
      path.find('\0') != std::string::npos) {
    return Damaged("path of a base");
  }
  return path;
}

Result<std::vector<BaseReference>> GetBases(ByteReader& in) {
  const auto count = in.Get<uint32_t>();
  if (count >= kMaxLayers) return Damaged("too many bases");
  std::vector<BaseReference> bases;
  for (uint32_t i = 0; i < count; ++i) {
    const Digest id = GetDigest(in);
    VMFORK_TRY(relative_path, GetPath(in));
    VMFORK_TRY(absolute_path, GetPath(in));
    bases.push_back({id, std::move(relative_path), std::move(absolute_path)});
  }
  return bases;
}

Result<std::vector<SavedExtent>> GetExtents(ByteReader& in, uint64_t memory_bytes, size_t layers) {
  const auto count = in.Get<uint32_t>();
  if (count > kMaxSavedExtents) return Damaged("too many extents");
  std::vector<SavedExtent> extents;
  uint64_t least = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const SavedExtent extent{.run = {in.Get<uint64_t>(), in.Get<uint64_t>()},
                             .layer = in.Get<uint32_t>()};
    const auto [start, size] = extent.run;
    const bool fits = start >= least && start <= memory_bytes && size <= memory_bytes - start;
    if (!in.Ok() || !fits || size == 0 || start % kPageSize != 0 || size % kPageSize != 0 ||
        extent.layer >= layers) {
      return Damaged("extent " + std::to_string(i));
    }
    least = start + size;
    extents.push_back(extent);
  }
  return extents;
}

Result<Manifest> DecodeBody(ByteReader& in) {
  Manifest manifest;
  manifest.state_digest = GetDigest(in);
  manifest.state_bytes = in.Get<uint64_t>();
  manifest.memory_bytes = in.Get<uint64_t>();
  if (!in.Ok() || manifest.state_bytes > kMaxStateBytes || manifest.memory_bytes == 0 ||
      manifest.memory_bytes % kPageSize != 0 || manifest.memory_bytes > layout::kMaxRamBytes) {
    return Damaged("implausible sizes");
  }
  VMFORK_TRY(bases, GetBases(in));
  VMFORK_TRY(extents, GetExtents(in, manifest.memory_bytes, bases.size() + 1));
  VMFORK_TRY(digests, GetDigests(in, manifest.memory_bytes));
  manifest.bases = std::move(bases);
  manifest.extents = std::move(extents);
  manifest.memory_digests = std::move(digests);
  for (Manifest::Disk& disk : manifest.disks) {
    disk.size_bytes = in.Get<uint64_t>();
    if (disk.size_bytes > kMaxDiskBytes) return Damaged("implausible size of a disk");
    VMFORK_TRY(disk_digests, GetDigests(in, disk.size_bytes));
    disk.digests = std::move(disk_digests);
  }
  if (!in.AtEnd()) return Damaged("wrong length");
  return manifest;
}

std::vector<std::byte> EncodeBody(const Manifest& manifest) {
  ByteWriter out;
  out.PutBytes(manifest.state_digest);
  out.Put(manifest.state_bytes);
  out.Put(manifest.memory_bytes);
  out.Put(static_cast<uint32_t>(manifest.bases.size()));
  for (const BaseReference& base : manifest.bases) {
    out.PutBytes(base.id);
    out.PutText(base.relative_path);
    out.PutText(base.absolute_path);
  }
  out.Put(static_cast<uint32_t>(manifest.extents.size()));
  for (const SavedExtent& extent : manifest.extents) {
    out.Put(extent.run.start);
    out.Put(extent.run.size);
    out.Put(extent.layer);
  }
  PutDigests(out, manifest.memory_digests);
  for (const Manifest::Disk& disk : manifest.disks) {
    out.Put(disk.size_bytes);
    PutDigests(out, disk.digests);
  }
  return out.Take();
}

// What the id and the authentication cover.
std::vector<std::byte> Signed(std::span<const std::byte> body) {
  ByteWriter out;
  out.PutBytes(std::as_bytes(std::span(kMagic)));
  out.Put(kSnapshotFormatVersion);
  out.PutBytes(body);
  return out.Take();
}

Result<void> Authenticate(std::span<const std::byte> signed_bytes, bool is_authenticated,
                          const Digest& tag, std::span<const std::byte> key) {
  if (key.empty()) return {};
  if (!is_authenticated) return Damaged("it was saved without a key");
  if (!EqualDigests(tag, HmacSha256(key, signed_bytes)))
    return Damaged("it was not saved with this key, or has been changed since");
  return {};
}

}  // namespace

std::vector<PageRun> Manifest::RunsOf(uint32_t layer) const {
  std::vector<PageRun> runs;
  for (const SavedExtent& extent : extents)
    if (extent.layer == layer) runs.push_back(extent.run);
  return runs;
}

PageRun WholeDisk(uint64_t size_bytes) {
  return {0, (size_bytes + kPageSize - 1) / kPageSize * kPageSize};
}

EncodedManifest EncodeManifest(const Manifest& manifest, std::span<const std::byte> key) {
  const std::vector<std::byte> body = EncodeBody(manifest);
  const std::vector<std::byte> signed_bytes = Signed(body);
  const Digest tag = key.empty() ? Digest{} : HmacSha256(key, signed_bytes);
  ByteWriter rest;
  rest.Put(uint32_t{!key.empty()});
  rest.PutBytes(tag);
  rest.PutBytes(body);
  return {SealEnvelope(kMagic, rest.Bytes()), Sha256::Of(signed_bytes)};
}

Result<DecodedManifest> DecodeManifest(std::span<const std::byte> bytes,
                                       std::span<const std::byte> key) {
  VMFORK_TRY(content, OpenEnvelope(kMagic, bytes, "decode manifest", "manifest"));
  ByteReader in(content);
  const auto is_authenticated = in.Get<uint32_t>();
  const Digest tag = GetDigest(in);
  if (!in.Ok() || is_authenticated > 1) return Damaged("truncated header");
  const std::vector<std::byte> signed_bytes = Signed(content.last(in.Remaining()));
  VMFORK_CHECK(Authenticate(signed_bytes, is_authenticated == 1, tag, key));
  VMFORK_TRY(manifest, DecodeBody(in));
  return DecodedManifest{std::move(manifest), Sha256::Of(signed_bytes)};
}

}  // namespace vmfork
