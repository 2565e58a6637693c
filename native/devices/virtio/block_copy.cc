// Ranges of files.
#include "devices/virtio/block_copy.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <vector>

#include "base/file.h"

namespace vmfork {

namespace {

constexpr size_t kCopyBytes = 1 << 20;

Result<void> CopyData(int from, int to, uint64_t start, uint64_t end) {
  auto from_offset = static_cast<off_t>(start), to_offset = from_offset;
  uint64_t size = end - start;
  while (size > 0) {
    const ssize_t copied = ::copy_file_range(from, &from_offset, to, &to_offset, size, 0);
    if (copied <= 0) break;
    size -= static_cast<uint64_t>(copied);
  }
  std::vector<std::byte> buffer(std::min<uint64_t>(size, kCopyBytes));
  while (size > 0) {
    const size_t wanted = std::min<uint64_t>(size, buffer.size());
    const ssize_t got = ::pread(from, buffer.data(), wanted, from_offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FailDisk("read disk", "copy");
    if (got == 0) return {};  // it has shrunk; the rest reads as zeros
    const auto bytes = std::span(buffer).first(static_cast<size_t>(got));
    if (!WriteFully(to, bytes, static_cast<uint64_t>(from_offset)))
      return FailDisk("write disk", "copy");
    from_offset += got;
    size -= bytes.size();
  }
  return {};
}

Result<void> MakeHole(int fd, uint64_t start, uint64_t end) {
  if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(start),
                  static_cast<off_t>(end - start)) == 0) {
    return {};
  }
  const std::vector<std::byte> zeros(std::min<uint64_t>(end - start, kCopyBytes));
  for (; start < end; start += zeros.size()) {
    const auto bytes = std::span(zeros).first(std::min<uint64_t>(end - start, zeros.size()));
    if (!WriteFully(fd, bytes, start)) return FailDisk("write disk", "copy");
  }
  return {};
}

}  // namespace

std::unexpected<Error> FailDisk(std::string operation, std::string detail) {
  if (errno == EMFILE || errno == ENFILE) return FailErrno(std::move(operation), std::move(detail));
  return Fail(ErrorCode::kDisk, std::move(operation), std::move(detail), errno);
}

bool TryClone(int from, int to) { return ::ioctl(to, FICLONE, from) == 0; }

Result<void> CopyRange(int from, int to, uint64_t start, uint64_t end, bool is_fresh) {
  while (start < end) {
    // Where the filesystem knows no holes, and for block devices, all of it is data.
    const off_t found = ::lseek(from, static_cast<off_t>(start), SEEK_DATA);
    uint64_t data = found < 0 ? start : static_cast<uint64_t>(found);
    if ((found < 0 && errno == ENXIO) || data > end) data = end;  // only a hole is left
    if (data > start && !is_fresh) VMFORK_CHECK(MakeHole(to, start, data));
    if (data == end) break;
    const off_t hole = ::lseek(from, static_cast<off_t>(data), SEEK_HOLE);
    const uint64_t data_end = hole < 0 ? end : std::min(static_cast<uint64_t>(hole), end);
    VMFORK_CHECK(CopyData(from, to, data, data_end));
    start = data_end;
  }
  return {};
}

}  // namespace vmfork
