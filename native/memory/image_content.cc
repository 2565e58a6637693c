// Reading and comparing content.
#include "memory/image_content.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "memory/gpa.h"

namespace vmfork {

namespace {

constexpr uint64_t kBufferBytes = 1 << 20;
// include/uapi/linux/fs.h: RWF_DONTCACHE, which headers of this age do not have.
constexpr int kDontCache = 0x80;

uint64_t RoundUp(uint64_t value) { return (value + kPageSize - 1) / kPageSize * kPageSize; }

// pread(2), in passing where the kernel and the filesystem can do that.
ssize_t ReadSome(int fd, uint64_t offset, std::span<std::byte> bytes, bool in_passing) {
  if (in_passing) {
    const iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const ssize_t got = ::preadv2(fd, &part, 1, static_cast<off_t>(offset), kDontCache);
    if (got >= 0 || (errno != EOPNOTSUPP && errno != EINVAL)) return got;
  }
  return ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
}

// Fills `bytes`, beyond the end of the file with zeros.
Result<void> ReadAt(int fd, uint64_t offset, std::span<std::byte> bytes, bool in_passing = false) {
  while (!bytes.empty()) {
    const ssize_t got = ReadSome(fd, offset, bytes, in_passing);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FailErrno("read");
    if (got == 0) break;
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  std::ranges::fill(bytes, std::byte{0});
  return {};
}

// The next part of [start, end) that is not a hole; empty: there is none.
PageRun NextData(int fd, uint64_t start, uint64_t end) {
  const off_t data = ::lseek(fd, static_cast<off_t>(start), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return {};
  // Where the filesystem knows no holes, all of it is data.
  if (data < 0) return {start, end - start};
  const uint64_t from = static_cast<uint64_t>(data) / kPageSize * kPageSize;
  if (from >= end) return {};
  const off_t hole = ::lseek(fd, data, SEEK_HOLE);
  const uint64_t to = hole < 0 ? end : std::min(end, RoundUp(static_cast<uint64_t>(hole)));
  return {std::max(from, start), to - std::max(from, start)};
}

// What identifies a file's content among those that are open: layers are never written again.
using FileIdentity = std::pair<dev_t, ino_t>;

class FileIdentities {
 public:
  Result<FileIdentity> Of(const UniqueFd& file) {
    if (const auto known = known_.find(&file); known != known_.end()) return known->second;
    struct stat status{};
    if (::fstat(file.Get(), &status) != 0) return FailErrno("fstat", "image layer");
    return known_[&file] = {status.st_dev, status.st_ino};
  }

 private:
  std::map<const UniqueFd*, FileIdentity> known_;
};

// One image's extents as they are met on the way up through RAM.
class ExtentCursor {
 public:
  explicit ExtentCursor(const Image& image) : extents_(image.Extents()), end_(image.Size()) {}

  // The extent that covers `position`, which never decreases; null: a gap.
  const Extent* At(uint64_t position) {
    while (next_ < extents_.size() && extents_[next_].start + extents_[next_].size <= position)
      ++next_;
    return next_ < extents_.size() && extents_[next_].start <= position ? &extents_[next_]
                                                                        : nullptr;
  }
  // Where that ends.
  uint64_t EndAt(uint64_t position) {
    if (const Extent* extent = At(position)) return extent->start + extent->size;
    return next_ < extents_.size() ? extents_[next_].start : end_;
  }

 private:
  std::span<const Extent> extents_;
  uint64_t end_;
  size_t next_ = 0;
};

Result<bool> ShowTheSame(const Extent* a, const Extent* b, FileIdentities& identities) {
  if (a == nullptr || b == nullptr) return a == b;
  // Both start at one position when their distances to the file's begin agree.
  if (a->file_offset - a->start != b->file_offset - b->start) return false;
  VMFORK_TRY(a_file, identities.Of(*a->file));
  VMFORK_TRY(b_file, identities.Of(*b->file));
  return a_file == b_file;
}

Result<void> ReadExtent(const Extent* extent, PageRun part, std::span<std::byte> bytes) {
  if (extent != nullptr)
    return ReadAt(extent->file->Get(), extent->file_offset + (part.start - extent->start), bytes);
  std::ranges::fill(bytes, std::byte{0});
  return {};
}

// The first position from `position` on, below `end`, at which an extent's file is not a hole;
// `end`: there is none.
uint64_t NextContent(const Extent* extent, uint64_t position, uint64_t end) {
  if (extent == nullptr) return end;
  const uint64_t to_file = extent->file_offset - extent->start;
  const PageRun data = NextData(extent->file->Get(), position + to_file, end + to_file);
  return data.size == 0 ? end : data.start - to_file;
}

}  // namespace

Result<void> ForEachFileContent(int fd, PageRun range, const PageVisitor& visit,
                                FileReading* reading) {
  std::vector<std::byte> buffer(std::min(range.size, kBufferBytes));
  const uint64_t end = range.start + range.size;
  for (uint64_t position = range.start; position < end;) {
    const PageRun data = NextData(fd, position, end);
    if (data.size == 0) break;
    const auto bytes = std::span(buffer).first(std::min(data.size, kBufferBytes));
    VMFORK_CHECK(ReadAt(fd, data.start, bytes, reading != nullptr && reading->in_passing));
    if (reading != nullptr) reading->bytes += bytes.size();
    VMFORK_CHECK(ForEachNonZeroRun(data.start, bytes, visit));
    position = data.start + bytes.size();
  }
  return {};
}

Result<void> ForEachImageContent(const Image& image, PageRun range, const PageVisitor& visit) {
  const uint64_t end = range.start + range.size;
  const auto extents = image.Extents();
  auto next = std::ranges::partition_point(extents, [&range](const Extent& extent) {
    return extent.start + extent.size <= range.start;
  });
  for (; next != extents.end() && next->start < end; ++next) {
    const Extent& extent = *next;
    const uint64_t from = std::max(extent.start, range.start);
    const uint64_t to = std::min(extent.start + extent.size, end);
    const uint64_t file_start = extent.file_offset + (from - extent.start);
    VMFORK_CHECK(ForEachFileContent(extent.file->Get(), {file_start, to - from},
                                    [&](uint64_t file_offset, std::span<const std::byte> pages) {
                                      return visit(from + (file_offset - file_start), pages);
                                    }));
  }
  return {};
}

Result<std::vector<PageRun>> FindDifferences(const Image& a, const Image& b,
                                             uint64_t joined_gap_bytes) {
  std::vector<PageRun> runs;
  std::vector<std::byte> a_bytes(kBufferBytes), b_bytes(kBufferBytes);
  FileIdentities identities;
  ExtentCursor a_extents(a), b_extents(b);
  for (uint64_t position = 0; position < a.Size();) {
    const Extent* const a_extent = a_extents.At(position);
    const Extent* const b_extent = b_extents.At(position);
    const uint64_t end = std::min(a_extents.EndAt(position), b_extents.EndAt(position));
    VMFORK_TRY(same, ShowTheSame(a_extent, b_extent, identities));
    position =
        same ? end
             : std::min(NextContent(a_extent, position, end), NextContent(b_extent, position, end));
    if (position == end) continue;
    const PageRun part{position, std::min(end - position, kBufferBytes)};
    VMFORK_CHECK(ReadExtent(a_extent, part, std::span(a_bytes).first(part.size)));
    VMFORK_CHECK(ReadExtent(b_extent, part, std::span(b_bytes).first(part.size)));
    for (uint64_t page = 0; page < part.size; page += kPageSize) {
      if (std::memcmp(a_bytes.data() + page, b_bytes.data() + page, kPageSize) != 0)
        AppendRun(runs, {position + page, kPageSize}, joined_gap_bytes);
    }
    position += part.size;
  }
  return runs;
}

}  // namespace vmfork
