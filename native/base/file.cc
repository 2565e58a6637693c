// Files on disk.
#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace vmfork {

Result<std::shared_ptr<const File>> File::OpenReadOnly(const std::string& path,
                                                       ErrorCode not_found) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer. It means nothing to regular files.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.IsValid()) {
    if (errno == ENOENT || errno == EACCES || errno == ENOTDIR)
      return Fail(not_found, "open", path, errno);
    return FailErrno("open", path);
  }
  struct stat status{};
  if (::fstat(fd.Get(), &status) != 0) return FailErrno("fstat", path);
  if (!S_ISREG(status.st_mode)) return Fail(not_found, "open", path + " is not a regular file");
  const int64_t modified_ns =
      int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  return std::make_shared<const File>(std::move(fd), static_cast<uint64_t>(status.st_size),
                                      modified_ns);
}

Result<std::vector<std::byte>> File::ReadAll() const {
  std::vector<std::byte> content(size_);
  size_t position = 0;
  while (position < content.size()) {
    const ssize_t count = ::pread(fd_.Get(), content.data() + position, content.size() - position,
                                  static_cast<off_t>(position));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FailErrno("read");
    if (count == 0) break;  // the file has shrunk
    position += static_cast<size_t>(count);
  }
  content.resize(position);
  return content;
}

Result<void> WriteFully(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FailErrno("write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return {};
}

}  // namespace vmfork
