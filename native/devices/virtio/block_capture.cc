// Freezing media.
#include "devices/virtio/block_capture.h"

#include <unistd.h>

#include <algorithm>

#include "devices/virtio/block_copy.h"

namespace vmfork {

namespace {

// What may be left to copy while the machine stands still: some hundred microseconds.
constexpr uint64_t kFewBytes = 512 << 10;
// Of a disk that is written to as fast as it is copied, the rest does not get smaller.
constexpr int kMostRounds = 6;

BlockMap::Run AllOf(const BlockMedium& medium) { return BlockMap::Covering(0, medium.SizeBytes()); }

}  // namespace

Result<BlockCapture> BlockCapture::Prepare(std::shared_ptr<const BlockMedium> medium,
                                           const std::string& directory) {
  BlockCapture capture(std::move(medium));
  const BlockMedium& disk = *capture.medium_;
  if (disk.GetKind() == BlockMedium::Kind::kFile) {
    VMFORK_CHECK(capture.PrepareCopy(directory));
    return capture;
  }
  VMFORK_TRY(below, Flatten({disk.Layers().begin() + 1, disk.Layers().end()}, disk.SizeBytes(),
                            directory));
  VMFORK_TRY(next, MakeUpperLayer(disk.SizeBytes(), directory));
  capture.below_ = std::move(below);
  capture.next_ = std::move(next);
  return capture;
}

Result<void> BlockCapture::PrepareCopy(const std::string& directory) {
  VMFORK_TRY(fd, MakeNamelessFile(medium_->SizeBytes(), directory));
  copy_ = std::make_shared<BlockMedium>(std::move(fd), BlockMedium::Kind::kScratch,
                                        BlockMedium::Identity{.size_bytes = medium_->SizeBytes()},
                                        std::string());
  clones_ = TryClone(medium_->Fd(), copy_->Fd());
  if (clones_) return {};
  medium_->Changed()->Remove(AllOf(*medium_));
  VMFORK_CHECK(medium_->CopyTo(copy_->Fd()));
  uint64_t left = medium_->Changed()->Count(AllOf(*medium_)) * BlockMap::kBlockBytes;
  for (int round = 0; left > kFewBytes && round < kMostRounds; ++round) {
    VMFORK_CHECK(CopyChanged());
    left = medium_->Changed()->Count(AllOf(*medium_)) * BlockMap::kBlockBytes;
  }
  return {};
}

Result<void> BlockCapture::CopyChanged() const {
  const BlockMap::Run all = AllOf(*medium_);
  for (BlockMap::Run run = medium_->Changed()->TakeFirst(all); run.first < all.end;
       run = medium_->Changed()->TakeFirst({run.end, all.end})) {
    const uint64_t start = run.first * BlockMap::kBlockBytes;
    const uint64_t end = std::min(run.end * BlockMap::kBlockBytes, medium_->SizeBytes());
    VMFORK_CHECK(CopyRange(medium_->Fd(), copy_->Fd(), start, end, false));
  }
  return {};
}

Result<BlockCapture::Taken> BlockCapture::Take() {
  if (copy_ != nullptr) {
    // Again, because it has been written to since.
    if (!clones_ || !TryClone(medium_->Fd(), copy_->Fd())) VMFORK_CHECK(CopyChanged());
    return Taken{.frozen = copy_, .source = medium_};
  }
  const uint64_t size_bytes = medium_->SizeBytes();
  const std::shared_ptr<BlockLayer>& top = medium_->Layers().front();
  // Nothing is on top: the source goes on with it, or its layers would become more by each freeze.
  if (top->IsUnwritten(size_bytes))
    return Taken{.frozen = std::make_shared<const BlockMedium>(below_, size_bytes),
                 .source = medium_};
  BlockLayers layers{top};
  layers.insert(layers.end(), below_.begin(), below_.end());
  auto frozen = std::make_shared<const BlockMedium>(layers, size_bytes);
  layers.insert(layers.begin(), next_);
  return Taken{.frozen = std::move(frozen),
               .source = std::make_shared<const BlockMedium>(std::move(layers), size_bytes)};
}

}  // namespace vmfork
