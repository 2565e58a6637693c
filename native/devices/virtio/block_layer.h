// BlockLayer: one file of a scratch disk. A disk that was frozen consists of several, one above the
// other: the top one takes what is written from then on, and no other changes any more, so that
// any number of disks stand on the same ones.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/virtio/block_map.h"

namespace vmfork {

struct BlockLayer {
  explicit BlockLayer(UniqueFd file) : fd(std::move(file)) {}
  BlockLayer(UniqueFd file, BlockMap map)
      : fd(std::move(file)), held(std::make_unique<BlockMap>(std::move(map))) {}

  const UniqueFd fd;  // laid out like the disk
  // Which of the disk's blocks count; null: all of them. Elsewhere the layer below has them.
  const std::unique_ptr<BlockMap> held;
  std::mutex mutex;  // held while blocks that the layer does not hold are made to be there

  bool IsWhole() const { return held == nullptr; }
  bool IsUnwritten(uint64_t disk_bytes) const;
};

// From the top down. The last one of a disk is whole.
using BlockLayers = std::vector<std::shared_ptr<BlockLayer>>;

// A file of so many bytes, all zeros, sparse, which only its descriptor leads to: in `directory`,
// which is made when it is not there, or in memory when that is empty. Errors: kDisk,
// kTooManyFiles.
Result<UniqueFd> MakeNamelessFile(uint64_t size_bytes, const std::string& directory);

// Above others, empty. Errors: kDisk, kTooManyFiles, kTooManyMaps.
Result<std::shared_ptr<BlockLayer>> MakeUpperLayer(uint64_t disk_bytes,
                                                   const std::string& directory);

// A stretch that one layer holds; `layer` is null where none does.
struct BlockPiece {
  const BlockLayer* layer;
  BlockMap::Run run;
};
// The one that `within`, which is not empty, begins with.
BlockPiece FindPiece(std::span<const std::shared_ptr<BlockLayer>> layers, BlockMap::Run within);

// Makes `fd` hold what the layers hold together, at the same places; nothing was written to it yet.
// Error: kDisk.
Result<void> CopyLayers(std::span<const std::shared_ptr<BlockLayer>> layers, uint64_t disk_bytes,
                        int fd);

// Layers that show the same and are few: the upper ones as they are when they are few, else several
// of them in one. What is copied takes no more room than all of them. Blocks for as long as that
// takes. Errors: kDisk, kTooManyFiles, kTooManyMaps.
Result<BlockLayers> Flatten(const BlockLayers& layers, uint64_t disk_bytes,
                            const std::string& directory);

}  // namespace vmfork
