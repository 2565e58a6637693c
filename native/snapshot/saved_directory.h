// The directory of a saved snapshot: the names in it, how it is published, how its files are
// opened.
#pragma once

#include <sys/types.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "snapshot/manifest.h"

namespace vmfork {

inline constexpr char kManifestName[] = "/manifest", kStateName[] = "/state",
                      kMemoryName[] = "/memory", kWorkingSetName[] = "/working-set";
std::string DiskName(size_t drive);

// Without symbolic links, from the root; the last part of `path` need not exist yet. Error:
// kSystem.
Result<std::string> RealPath(const std::string& path);

// What is small enough to be read whole: a file larger than `most_bytes` is refused. Errors:
// kSnapshotInvalid, kSystem.
Result<std::vector<std::byte>> ReadSmallFile(const std::string& path, uint64_t most_bytes);
// The manifest of a directory; see DecodeManifest().
Result<DecodedManifest> ReadManifest(const std::string& directory,
                                     std::span<const std::byte> key = {});
// A file of exactly that size, read-only. Errors: kSnapshotInvalid, kSystem.
Result<std::shared_ptr<const UniqueFd>> OpenSized(const std::string& path, uint64_t size_bytes);

// A directory under a temporary name beside its final one; it is removed again unless Publish()
// succeeded.
class PendingDirectory {
 public:
  static Result<PendingDirectory> Create(const std::string& final_path);
  ~PendingDirectory();
  PendingDirectory(PendingDirectory&& other) noexcept
      : path_(std::exchange(other.path_, {})),
        final_path_(std::move(other.final_path_)),
        files_(std::move(other.files_)) {}
  PendingDirectory(const PendingDirectory&) = delete;

  const std::string& Path() const { return path_; }
  // Creates a file in it, has `write` fill it, and sees that it is on disk.
  Result<void> AddFile(const std::string& name, const std::function<Result<void>(int fd)>& write);
  // A directory that has its final name is complete, also after a crash. Never replaces one that
  // has content. After an error it does not have that name. Error: kSystem.
  Result<void> Publish();

 private:
  PendingDirectory(std::string path, std::string final_path)
      : path_(std::move(path)), final_path_(std::move(final_path)) {}

  std::string path_;
  std::string final_path_;
  std::vector<std::string> files_;  // their paths: removing them needs no memory
};

// Replaces or makes one file of a directory, atomically and on disk. After an error the file is the
// old one or the new one, whole. Error: kSystem.
Result<void> PublishFile(const std::string& path, std::span<const std::byte> bytes);

}  // namespace vmfork
