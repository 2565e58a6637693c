// BlockCapture: what a disk that is written to shows at one moment, as a medium that does not
// change any more.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "devices/virtio/block_medium.h"

namespace vmfork {

// In two steps, because nobody may write the disk during the second one: what takes long comes
// before.
class BlockCapture {
 public:
  // The disk may be written to, by this process only. A scratch disk gets a new top layer, for what
  // its machine writes later; the caller's file is copied, blocks that are written meanwhile once
  // more. Errors: kDisk, kTooManyFiles, kTooManyMaps.
  static Result<BlockCapture> Prepare(std::shared_ptr<const BlockMedium> medium,
                                      const std::string& directory);
  struct Taken {
    std::shared_ptr<const BlockMedium> frozen;
    std::shared_ptr<const BlockMedium> source;  // what its machine goes on with
  };
  // Error: kDisk.
  Result<Taken> Take();

 private:
  explicit BlockCapture(std::shared_ptr<const BlockMedium> medium) : medium_(std::move(medium)) {}
  Result<void> PrepareCopy(const std::string& directory);
  Result<void> CopyChanged() const;

  std::shared_ptr<const BlockMedium> medium_;
  BlockLayers below_;                  // what is below the disk's top layer
  std::shared_ptr<BlockLayer> next_;   // the new top layer
  std::shared_ptr<BlockMedium> copy_;  // of the caller's file; null: is to be cloned, or is none
  bool clones_ = false;                // the filesystem shares the blocks of the two
};

}  // namespace vmfork
