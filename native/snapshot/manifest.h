// The manifest of a saved snapshot: which files hold what part of the guest's RAM, and digests of
// everything. The state blob says what the machine was; this says what the directory must hold.
// docs/snapshot-format.md describes it byte by byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "snapshot/chunk_digest.h"
#include "snapshot/machine_state.h"

namespace vmfork {

// A chain of more directories than this is not made: the next one is saved whole.
inline constexpr size_t kMaxLayers = 32;
// Each is a mapping of every clone.
inline constexpr size_t kMaxSavedExtents = 4096;

// Another directory whose memory file shows through this one.
struct BaseReference {
  Digest id{};                // of its manifest
  std::string relative_path;  // from this directory; tried first, so that both can be moved
  std::string absolute_path;
};

// A run of RAM that lies in the memory file of one layer, at the offset it has in RAM.
struct SavedExtent {
  PageRun run;
  uint32_t layer = 0;  // 0: this directory; n: bases[n - 1]
};

struct Manifest {
  Digest state_digest{};  // of the whole state file
  uint64_t state_bytes = 0;
  uint64_t memory_bytes = 0;
  std::vector<BaseReference> bases;
  std::vector<SavedExtent> extents;         // all of RAM that may not be zero, in ascending order
  std::vector<ChunkDigest> memory_digests;  // of the runs that lie in this directory
  struct Disk {
    uint64_t size_bytes = 0;  // 0: there is none
    std::vector<ChunkDigest> digests;
  };
  std::array<Disk, kMediaSlots> disks;

  // The runs that lie in the memory file of one layer.
  std::vector<PageRun> RunsOf(uint32_t layer) const;
};

// The part of a disk's file that its digests cover.
PageRun WholeDisk(uint64_t size_bytes);

struct EncodedManifest {
  std::vector<std::byte> bytes;
  Digest id{};
};
// With a key (not empty) it is authenticated: HMAC-SHA-256 of all that matters.
EncodedManifest EncodeManifest(const Manifest& manifest, std::span<const std::byte> key);

struct DecodedManifest {
  Manifest manifest;
  Digest id{};
};
// Hostile input. With a key only what was encoded with the same key is accepted, and nothing else
// is looked into. Errors: kSnapshotInvalid, kSnapshotIncompatible (another format version).
Result<DecodedManifest> DecodeManifest(std::span<const std::byte> bytes,
                                       std::span<const std::byte> key);

}  // namespace vmfork
