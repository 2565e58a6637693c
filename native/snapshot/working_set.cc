// magic, version, CRC-32C of the rest, id of the manifest, number of runs, (offset, size) each.
#include "snapshot/working_set.h"

#include <fcntl.h>

#include <algorithm>

#include "base/byte_io.h"
#include "memory/gpa.h"
#include "snapshot/envelope.h"

namespace vmfork {

namespace {

constexpr std::string_view kMagic = "VMFKWSET";
// One call reads no more than the device's readahead window (mm/readahead.c,
// force_page_cache_ra()), which is 128 KiB by default.
constexpr uint64_t kAdviceBytes = 128 << 10;

std::unexpected<Error> Damaged(std::string detail) {
  return Fail(ErrorCode::kSnapshotInvalid, "decode working set", std::move(detail));
}

Result<void> Advise(const Extent& extent, uint64_t from, uint64_t to) {
  for (; from < to; from += kAdviceBytes) {
    const uint64_t size = std::min(kAdviceBytes, to - from);
    const auto offset = static_cast<off_t>(extent.file_offset + (from - extent.start));
    const int error =
        ::posix_fadvise(extent.file->Get(), offset, static_cast<off_t>(size), POSIX_FADV_WILLNEED);
    if (error != 0) return FailErrno(error, "posix_fadvise", "memory of a snapshot");
  }
  return {};
}

}  // namespace

bool AreRunsPlausible(std::span<const PageRun> runs, uint64_t memory_bytes) {
  if (runs.size() > kMaxWorkingSetRuns) return false;
  uint64_t least = 0;
  for (const auto& [start, size] : runs) {
    if (start < least || start > memory_bytes || size > memory_bytes - start || size == 0 ||
        start % kPageSize != 0 || size % kPageSize != 0) {
      return false;
    }
    least = start + size;
  }
  return true;
}

std::vector<std::byte> EncodeWorkingSet(std::span<const PageRun> runs, const Digest& manifest_id) {
  ByteWriter rest;
  rest.PutBytes(manifest_id);
  rest.Put(static_cast<uint32_t>(runs.size()));
  for (const auto& [start, size] : runs) {
    rest.Put(start);
    rest.Put(size);
  }
  return SealEnvelope(kMagic, rest.Bytes());
}

Result<std::vector<PageRun>> DecodeWorkingSet(std::span<const std::byte> bytes,
                                              const Digest& manifest_id, uint64_t memory_bytes) {
  const auto content = OpenEnvelope(kMagic, bytes, "decode working set", "working set");
  // Another version is no working set of this snapshot, as anything else is not.
  if (!content) return Damaged("not a working set, or damaged");
  ByteReader in(*content);
  const auto id = in.GetBytes(manifest_id.size());
  const auto count = in.Get<uint32_t>();
  if (!in.Ok() || !std::ranges::equal(id, manifest_id))
    return Damaged("it was recorded for another snapshot");
  if (count > kMaxWorkingSetRuns) return Damaged("too many runs");
  std::vector<PageRun> runs;
  for (uint32_t i = 0; i < count && in.Ok(); ++i)
    runs.push_back({in.Get<uint64_t>(), in.Get<uint64_t>()});
  if (!in.AtEnd() || !AreRunsPlausible(runs, memory_bytes)) return Damaged("implausible runs");
  return runs;
}

Result<void> Prefetch(const Image& image, std::span<const PageRun> runs) {
  const auto extents = image.Extents();
  size_t next = 0;
  for (const PageRun& run : runs) {
    const uint64_t end = run.start + run.size;
    while (next < extents.size() && extents[next].start + extents[next].size <= run.start) ++next;
    for (size_t i = next; i < extents.size() && extents[i].start < end; ++i) {
      const uint64_t from = std::max(extents[i].start, run.start);
      VMFORK_CHECK(Advise(extents[i], from, std::min(extents[i].start + extents[i].size, end)));
    }
  }
  return {};
}

}  // namespace vmfork
