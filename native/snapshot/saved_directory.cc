// Publishing and opening.
#include "snapshot/saved_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace vmfork {

namespace {

constexpr uint64_t kMaxManifestBytes = 64 << 20;

std::string ParentOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

Result<void> SyncDirectory(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.IsValid() || ::fsync(fd.Get()) != 0) return FailErrno("fsync", path);
  return {};
}

}  // namespace

std::string DiskName(size_t drive) { return "/disk" + std::to_string(drive); }

Result<std::string> RealPath(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::weakly_canonical(path, error);
  if (error) return FailErrno(error.value(), "resolve path", path);
  return real.string();
}

Result<std::vector<std::byte>> ReadSmallFile(const std::string& path, uint64_t most_bytes) {
  VMFORK_TRY(file, File::OpenReadOnly(path, ErrorCode::kSnapshotInvalid));
  if (file->Size() > most_bytes) {
    return Fail(ErrorCode::kSnapshotInvalid, "load snapshot",
                path + " has " + std::to_string(file->Size()) + " bytes");
  }
  return file->ReadAll();
}

Result<DecodedManifest> ReadManifest(const std::string& directory, std::span<const std::byte> key) {
  VMFORK_TRY(bytes, ReadSmallFile(directory + kManifestName, kMaxManifestBytes));
  auto decoded = DecodeManifest(bytes, key);
  if (!decoded) decoded.error().detail += " (" + directory + kManifestName + ")";
  return decoded;
}

Result<std::shared_ptr<const UniqueFd>> OpenSized(const std::string& path, uint64_t size_bytes) {
  VMFORK_TRY(file, File::OpenReadOnly(path, ErrorCode::kSnapshotInvalid));
  if (file->Size() != size_bytes) {
    return Fail(ErrorCode::kSnapshotInvalid, "load snapshot",
                path + " has " + std::to_string(file->Size()) + " bytes instead of " +
                    std::to_string(size_bytes));
  }
  UniqueFd fd(::fcntl(file->Get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsValid()) return FailErrno("fcntl", "F_DUPFD_CLOEXEC");
  return std::make_shared<const UniqueFd>(std::move(fd));
}

Result<PendingDirectory> PendingDirectory::Create(const std::string& final_path) {
  PendingDirectory pending(final_path + ".XXXXXX", final_path);
  if (::mkdtemp(pending.path_.data()) != nullptr) return pending;
  auto error = FailErrno("mkdtemp", pending.path_);
  pending.path_.clear();
  return error;
}

PendingDirectory::~PendingDirectory() {
  if (path_.empty()) return;
  for (const std::string& file : files_) ::unlink(file.c_str());
  ::rmdir(path_.c_str());
}

Result<void> PendingDirectory::AddFile(const std::string& name,
                                       const std::function<Result<void>(int fd)>& write) {
  const std::string file_path = path_ + name;
  files_.push_back(file_path);
  UniqueFd fd(::open(file_path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.IsValid()) return FailErrno("open", file_path);
  VMFORK_CHECK(write(fd.Get()));
  if (::fsync(fd.Get()) != 0) return FailErrno("fsync", file_path);
  return {};
}

Result<void> PendingDirectory::Publish() {
  const std::string parent = ParentOf(final_path_);
  VMFORK_CHECK(SyncDirectory(path_));
  // rename(2) replaces an empty directory only: an existing snapshot is never overwritten.
  if (::rename(path_.c_str(), final_path_.c_str()) != 0) return FailErrno("rename", final_path_);
  auto synced = SyncDirectory(parent);
  // Whether the name would outlive a crash is not known then: who is told so finds nothing there,
  // and may try again.
  if (synced || ::rename(final_path_.c_str(), path_.c_str()) != 0) path_.clear();
  return synced;
}

Result<void> PublishFile(const std::string& path, std::span<const std::byte> bytes) {
  std::string pending = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(pending.data(), O_CLOEXEC));
  if (!fd.IsValid()) return FailErrno("mkostemp", pending);
  auto written = WriteFully(fd.Get(), bytes, 0);
  if (written && ::fsync(fd.Get()) != 0) written = FailErrno("fsync", pending);
  if (written && ::rename(pending.c_str(), path.c_str()) != 0) written = FailErrno("rename", path);
  if (!written) {
    ::unlink(pending.c_str());
    return written;
  }
  return SyncDirectory(ParentOf(path));
}

}  // namespace vmfork
