// Digests, made and compared.
#include "snapshot/chunk_digest.h"

#include <algorithm>

#include "memory/gpa.h"

namespace vmfork {

void ChunkDigester::Add(uint64_t offset, std::span<const std::byte> pages) {
  for (; !pages.empty(); offset += kPageSize, pages = pages.subspan(kPageSize)) {
    if (in_chunk_ && offset / kChunkBytes != index_) FinishChunk();
    index_ = offset / kChunkBytes;
    in_chunk_ = true;
    hash_.Update(std::as_bytes(std::span(&offset, 1)));
    hash_.Update(pages.first(kPageSize));
  }
}

std::vector<ChunkDigest> ChunkDigester::Take() {
  if (in_chunk_) FinishChunk();
  return std::exchange(digests_, {});
}

void ChunkDigester::FinishChunk() {
  digests_.push_back({index_, hash_.Finish()});
  hash_ = Sha256();
  in_chunk_ = false;
}

Result<std::vector<ChunkDigest>> DigestFile(int fd, std::span<const PageRun> runs,
                                            FileReading* reading) {
  ChunkDigester digester;
  for (const PageRun& run : runs) {
    VMFORK_CHECK(ForEachFileContent(
        fd, run,
        [&](uint64_t offset, std::span<const std::byte> pages) {
          digester.Add(offset, pages);
          return Result<void>();
        },
        reading));
  }
  return digester.Take();
}

Result<bool> ChunkIsIntact(const DigestedFile& file, uint64_t index, FileReading* reading) {
  const uint64_t start = index * kChunkBytes, end = start + kChunkBytes;
  std::vector<PageRun> inside;
  const auto first = std::ranges::partition_point(
      file.runs, [start](const PageRun& run) { return run.start + run.size <= start; });
  for (auto run = first; run != file.runs.end() && run->start < end; ++run) {
    const uint64_t from = std::max(run->start, start);
    inside.push_back({from, std::min(run->start + run->size, end) - from});
  }
  VMFORK_TRY(found, DigestFile(file.fd, inside, reading));
  const auto wanted = std::ranges::lower_bound(file.digests, index, {}, &ChunkDigest::index);
  const bool has_content = wanted != file.digests.end() && wanted->index == index;
  if (found.empty()) return !has_content;
  return has_content && EqualDigests(found.front().digest, wanted->digest);
}

}  // namespace vmfork
