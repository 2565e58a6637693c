// Opening, making and copying the files behind block devices.
#include "devices/virtio/block_medium.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/file.h"

namespace vmfork {

namespace {

constexpr size_t kCopyBytes = 1 << 20;

std::unexpected<Error> FailDisk(std::string operation, std::string detail) {
  if (errno == EMFILE || errno == ENFILE) return FailErrno(std::move(operation), std::move(detail));
  return Fail(ErrorCode::kDisk, std::move(operation), std::move(detail), errno);
}

// A file that only its descriptor leads to.
Result<UniqueFd> OpenNameless(const std::string& directory) {
  UniqueFd fd;
  if (directory.empty()) {
    fd = UniqueFd(::memfd_create("vmfork-scratch", MFD_CLOEXEC));
    if (!fd.IsValid()) return FailDisk("memfd_create", "scratch disk");
    return fd;
  }
  std::error_code ignored;  // open() says what is wrong with it
  std::filesystem::create_directories(directory, ignored);
  fd = UniqueFd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  // open(2), O_TMPFILE: EOPNOTSUPP where the filesystem lacks it, EISDIR where the kernel does.
  if (!fd.IsValid() && (errno == EOPNOTSUPP || errno == EISDIR)) {
    std::string path = directory + "/scratch.XXXXXX";
    fd = UniqueFd(::mkostemp(path.data(), O_CLOEXEC));
    if (fd.IsValid()) ::unlink(path.c_str());
  }
  if (!fd.IsValid()) return FailDisk("open scratch disk", directory);
  return fd;
}

Result<BlockMedium::Identity> Identify(int fd, const std::string& path, ErrorCode refusal) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return FailErrno("fstat", path);
  BlockMedium::Identity identity{
      .device = status.st_dev,
      .inode = status.st_ino,
      .size_bytes = static_cast<uint64_t>(status.st_size),
      .modified_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
  if (S_ISBLK(status.st_mode)) {
    if (::ioctl(fd, BLKGETSIZE64, &identity.size_bytes) != 0)
      return FailErrno("BLKGETSIZE64", path);
  } else if (!S_ISREG(status.st_mode)) {
    return Fail(refusal, "open", path + " is neither a regular file nor a block device");
  }
  return identity;
}

// Copies `size` bytes; the kernel does it where both filesystems can (copy_file_range(2)).
Result<void> CopyRange(int from, int to, off_t offset, size_t size) {
  off_t from_offset = offset, to_offset = offset;
  while (size > 0) {
    const ssize_t copied = ::copy_file_range(from, &from_offset, to, &to_offset, size, 0);
    if (copied <= 0) break;
    size -= static_cast<size_t>(copied);
  }
  std::vector<std::byte> buffer(size == 0 ? 0 : std::min(size, kCopyBytes));
  while (size > 0) {
    const size_t wanted = std::min(size, buffer.size());
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

}  // namespace

Result<std::shared_ptr<const BlockMedium>> BlockMedium::OpenScratch(const std::string& path) {
  VMFORK_TRY(file, File::OpenReadOnly(path, ErrorCode::kSnapshotInvalid));
  UniqueFd fd(::fcntl(file->Get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsValid()) return FailErrno("fcntl", "F_DUPFD_CLOEXEC");
  return std::make_shared<const BlockMedium>(std::move(fd), Kind::kScratch,
                                             Identity{.size_bytes = file->Size()}, path);
}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::Open(const std::string& path, Kind kind,
                                                             ErrorCode refusal) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer. It means nothing to disks.
  const int access = kind == Kind::kFile ? O_RDWR : O_RDONLY;
  UniqueFd fd(::open(path.c_str(), access | O_CLOEXEC | O_NONBLOCK));
  if (!fd.IsValid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) return FailErrno("open", path);
    return Fail(refusal, "open", path, errno);
  }
  VMFORK_TRY(identity, Identify(fd.Get(), path, refusal));
  return std::make_shared<const BlockMedium>(std::move(fd), kind, identity, path);
}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::MakeScratch(uint64_t size_bytes,
                                                                    const std::string& directory) {
  VMFORK_TRY(fd, OpenNameless(directory));
  if (::ftruncate(fd.Get(), static_cast<off_t>(size_bytes)) != 0)
    return FailDisk("ftruncate", "scratch disk of " + std::to_string(size_bytes) + " bytes");
  return std::make_shared<const BlockMedium>(std::move(fd), Kind::kScratch,
                                             Identity{.size_bytes = size_bytes}, std::string());
}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::Copy(const std::string& directory) const {
  VMFORK_TRY(copy, MakeScratch(SizeBytes(), directory));
  VMFORK_CHECK(CopyTo(copy->Fd()));
  return copy;
}

Result<void> BlockMedium::CopyTo(int fd) const {
  if (::ioctl(fd, FICLONE, fd_.Get()) == 0) return {};
  const auto size = static_cast<off_t>(SizeBytes());
  if (::ftruncate(fd, size) != 0) return FailDisk("ftruncate", "copy of a disk");
  for (off_t position = 0; position < size;) {
    // Where the filesystem knows no holes, and for block devices, all of it is data.
    off_t data = ::lseek(fd_.Get(), position, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data < 0) data = position;
    off_t hole = ::lseek(fd_.Get(), data, SEEK_HOLE);
    if (hole < 0) hole = size;
    const off_t end = std::min(hole, size);
    if (data >= end) break;
    VMFORK_CHECK(CopyRange(fd_.Get(), fd, data, static_cast<size_t>(end - data)));
    position = end;
  }
  return {};
}

std::shared_ptr<const BlockMedium> BlockImages::Share(std::shared_ptr<const BlockMedium> opened) {
  if (opened->IsWritable()) return opened;
  std::lock_guard lock(mutex_);
  std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const BlockMedium>& known = open_[opened->GetIdentity()];
  if (auto shared = known.lock()) return shared;
  known = opened;
  return opened;
}

}  // namespace vmfork
