// BlockMedium: what is behind a block device. A read-only image is shared by any number of machines
// and by the host's page cache; a scratch disk belongs to one machine and goes with it, but stands
// on what it has in common with others.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/virtio/block_layer.h"
#include "devices/virtio/block_map.h"

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

  // A regular file or block device; a scratch disk has it to itself from then on. Errors: `refusal`
  // when it is not there, not permitted, or something else (a directory, a FIFO); kTooManyFiles,
  // kSystem.
  static Result<std::shared_ptr<const BlockMedium>> Open(const std::string& path, Kind kind,
                                                         ErrorCode refusal);
  // All zeros, sparse, without a name: a file in `directory`, which is made when it is not there,
  // or in memory when that is empty. Errors: kDisk, kTooManyFiles.
  static Result<std::shared_ptr<const BlockMedium>> MakeScratch(uint64_t size_bytes,
                                                                const std::string& directory);

  // A scratch disk that is only read, with others above it: part of a saved snapshot. Errors:
  // kSnapshotInvalid, kTooManyFiles, kSystem.
  static Result<std::shared_ptr<const BlockMedium>> OpenScratch(const std::string& path);

  // A scratch disk that shows what this one shows, which nobody may write to any more. Nothing is
  // copied. Errors: kDisk, kTooManyFiles, kTooManyMaps.
  Result<std::shared_ptr<const BlockMedium>> Fork(const std::string& directory) const;
  // Makes an empty file hold the same. Shares blocks where the filesystem can, else copies what is
  // not a hole. Error: kDisk.
  Result<void> CopyTo(int fd) const;

  // Where the bytes at an offset are: in a file, at the same offset, so many of `size_bytes` (which
  // are in the disk, and not 0). Stays true for what nobody writes meanwhile.
  struct Piece {
    int fd;
    uint64_t size_bytes;
  };
  Piece Find(uint64_t offset_bytes, uint64_t size_bytes) const;
  // `write` writes all of the range to Fd() and says whether that worked. Any thread.
  bool Change(uint64_t offset_bytes, uint64_t size_bytes, const std::function<bool()>& write) const;

  int Fd() const { return layers_.front()->fd.Get(); }
  const BlockLayers& Layers() const { return layers_; }
  // Of the caller's file: blocks that were written to, as far as nobody has taken them out yet.
  BlockMap* Changed() const { return changed_.get(); }
  Kind GetKind() const { return kind_; }
  bool IsWritable() const { return kind_ != Kind::kImage; }
  uint64_t SizeBytes() const { return identity_.size_bytes; }
  // A last partial sector is not visible.
  uint64_t Sectors() const { return SizeBytes() / kSectorBytes; }
  const Identity& GetIdentity() const { return identity_; }
  const std::string& Path() const { return path_; }  // empty: it has none

  BlockMedium(UniqueFd fd, Kind kind, Identity identity, std::string path);
  // A scratch disk.
  BlockMedium(BlockLayers layers, uint64_t size_bytes)
      : kind_(Kind::kScratch), identity_({.size_bytes = size_bytes}), layers_(std::move(layers)) {}

 private:
  bool FillBlock(uint64_t block) const;

  const Kind kind_;
  const Identity identity_;
  const std::string path_;
  const BlockLayers layers_;  // the top one takes what is written
  std::unique_ptr<BlockMap> changed_;
};

// What a block device shows: a medium, and what the guest reads as its serial number. No medium: an
// empty drive.
struct BlockDisk {
  std::shared_ptr<const BlockMedium> medium;
  std::string serial;

  // Each machine has its own then, and it is captured together with the memory.
  bool IsWritable() const { return medium != nullptr && medium->IsWritable(); }
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
