// Digests of memory and disks, one for each MiB, so that a check can name the place and be done in
// parts. docs/snapshot-format.md says what they cover.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "memory/image_content.h"
#include "memory/page_runs.h"

namespace vmfork {

inline constexpr uint64_t kChunkBytes = 1 << 20;

struct ChunkDigest {
  uint64_t index = 0;  // offset / kChunkBytes
  Digest digest{};
};

// Builds digests from content in ascending order. Pages that are all zero have no part in a digest,
// and a chunk without other pages has none: whether zeros are stored or are a hole is not content.
class ChunkDigester {
 public:
  // `pages` are whole pages, none of them all zero.
  void Add(uint64_t offset, std::span<const std::byte> pages);
  // Of all that was added.
  std::vector<ChunkDigest> Take();

 private:
  void FinishChunk();

  Sha256 hash_;
  uint64_t index_ = 0;
  bool in_chunk_ = false;
  std::vector<ChunkDigest> digests_;
};

// A file, and what it must hold: in `runs`, which are whole pages in ascending order, content of
// these digests. What lies outside the runs does not matter.
struct DigestedFile {
  int fd = -1;
  std::span<const PageRun> runs;
  std::span<const ChunkDigest> digests;
};

// The digests of what a file holds in `runs`. Error: kSystem.
Result<std::vector<ChunkDigest>> DigestFile(int fd, std::span<const PageRun> runs,
                                            FileReading* reading = nullptr);
// Whether the part of the file that is in chunk `index` is as it should be. Error: kSystem.
Result<bool> ChunkIsIntact(const DigestedFile& file, uint64_t index,
                           FileReading* reading = nullptr);

}  // namespace vmfork
