// BlockMedium: the file behind a block device. A read-only image is shared by any number of
// machines and by the host's page cache; a scratch disk belongs to one machine and goes with it.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

class BlockMedium {
 public:
  static constexpr uint64_t kSectorBytes = 512;

  enum class Kind : uint8_t {
    kImage = 1,    // a file or block device that is only read
    kFile = 2,     // a file or block device of the caller, written to; flushes reach it
    kScratch = 3,  // has no name; nobody needs it after its machine, so flushes do nothing
  };

  // What tells one content of one file from another, as far as that is cheap.
  struct Identity {
    uint64_t device = 0;
    uint64_t inode = 0;
    uint64_t size_bytes = 0;
    int64_t modified_ns = 0;
    auto operator<=>(const Identity&) const = default;
  };

  // A regular file or block device. Errors: `refusal` when it is not there, not permitted, or
  // something else (a directory, a FIFO); kTooManyFiles, kSystem.
  static Result<std::shared_ptr<const BlockMedium>> Open(const std::string& path, Kind kind,
                                                         ErrorCode refusal);
  // All zeros, sparse, without a name: a file in `directory`, which is made when it is not there,
  // or in memory when that is empty. Errors: kDisk, kTooManyFiles.
  static Result<std::shared_ptr<const BlockMedium>> MakeScratch(uint64_t size_bytes,
                                                                const std::string& directory);

  // A scratch disk that is only read, to be copied: part of a saved snapshot. Errors:
  // kSnapshotInvalid, kTooManyFiles, kSystem.
  static Result<std::shared_ptr<const BlockMedium>> OpenScratch(const std::string& path);

  // A scratch disk of the same content. The one place where disks are copied: it shares blocks
  // where the filesystem can (FICLONE), else copies what is not a hole. Errors: kDisk,
  // kTooManyFiles.
  Result<std::shared_ptr<const BlockMedium>> Copy(const std::string& directory) const;
  // The same into an empty file. Error: kDisk.
  Result<void> CopyTo(int fd) const;

  int Fd() const { return fd_.Get(); }
  Kind GetKind() const { return kind_; }
  bool IsWritable() const { return kind_ != Kind::kImage; }
  uint64_t SizeBytes() const { return identity_.size_bytes; }
  // A last partial sector is not visible.
  uint64_t Sectors() const { return SizeBytes() / kSectorBytes; }
  const Identity& GetIdentity() const { return identity_; }
  const std::string& Path() const { return path_; }  // empty: it has none

  BlockMedium(UniqueFd fd, Kind kind, Identity identity, std::string path)
      : fd_(std::move(fd)), kind_(kind), identity_(identity), path_(std::move(path)) {}

 private:
  const UniqueFd fd_;
  const Kind kind_;
  const Identity identity_;
  const std::string path_;
};

// What a block device shows: a medium, and what the guest reads as its serial number. No medium: an
// empty drive.
struct BlockDisk {
  std::shared_ptr<const BlockMedium> medium;
  std::string serial;
};

// The images that are open now. Opening the same file again gives the one that is open already.
class BlockImages {
 public:
  // The medium that all users of this content share: `opened` itself, or an equal one. Media that
  // are written to are never shared. Any thread.
  std::shared_ptr<const BlockMedium> Share(std::shared_ptr<const BlockMedium> opened);

 private:
  std::mutex mutex_;  // guards open_
  std::map<BlockMedium::Identity, std::weak_ptr<const BlockMedium>> open_;
};

}  // namespace vmfork
