// All files of a saved snapshot that are read after it was loaded: memory of the whole chain, and
// the disks that are copied for each clone. They can be compared with their digests, in parts.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "snapshot/manifest.h"
#include "snapshot/saved_directory.h"
#include "snapshot/saved_memory.h"

namespace vmfork {

struct SavedDisk {
  std::shared_ptr<const UniqueFd> file;  // null: there is none
  Manifest::Disk content;
};

struct SavedFiles {
  SavedMemory memory;
  std::array<SavedDisk, kMediaSlots> disks;

  // The snapshot's own directory, and the id of its manifest.
  const SavedLayer& Own() const { return *memory.layers.front(); }
};

// Errors: kSnapshotInvalid, kSystem.
Result<SavedFiles> OpenSavedFiles(const std::string& directory, const DecodedManifest& decoded);

// How files are compared with their digests.
enum class VerifyMode {
  kAwaited,   // some tens of milliseconds a part
  kInPassing  // at most one chunk with content a part, and the page cache stays as it is
};

// Positions are in bytes, of all files one after the other, each filled up to whole chunks.
struct VerifiedPart {
  uint64_t next = 0;        // the position to go on from; 0: that was all
  uint64_t end = 0;         // the position at which there is no more
  uint64_t read_bytes = 0;  // without holes
};

// Compares some chunks with their digests, beginning at `position`, 0 first. Errors:
// kSnapshotInvalid (names file and offset; also what the disk cannot read), kSystem.
Result<VerifiedPart> VerifyPart(const SavedFiles& files, uint64_t position,
                                VerifyMode mode = VerifyMode::kAwaited);

// Writes the runs of layer 0 into an empty memory file; returns their digests. `written_bytes` is
// what was not zero. Error: kSystem.
Result<std::vector<ChunkDigest>> WriteMemory(int fd, const Image& image,
                                             std::span<const SavedExtent> extents,
                                             uint64_t& written_bytes);

}  // namespace vmfork
