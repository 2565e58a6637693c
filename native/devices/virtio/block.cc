// The queue of a disk and its medium.
#include "devices/virtio/block.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

namespace vmfork {

namespace {
constexpr uint16_t kQueueSize = 64;
constexpr uint32_t kMaxSegments = kQueueSize - 2;  // beside the header and the status

uint64_t Bit(unsigned feature) { return 1ULL << feature; }
}  // namespace

Result<void> BlockDevice::Insert(BlockDisk disk) {
  DeviceLock lock(*context_);
  if (disk_.medium != nullptr) return Fail(ErrorCode::kDisk, "attach disk", "the slot is in use");
  if (access_ == Access::kReadOnly && disk.medium->IsWritable())
    return Fail(ErrorCode::kDisk, "attach disk", "the slot is read-only");
  disk_ = std::move(disk);
  context_->ConfigChanged();
  return {};
}

Result<void> BlockDevice::Eject() {
  {
    DeviceLock lock(*context_);
    if (disk_.medium == nullptr) return Fail(ErrorCode::kDisk, "detach disk", "the slot is empty");
    disk_ = {};
    context_->ConfigChanged();
  }
  // Each request under way keeps the medium; new ones find the drive empty.
  io_.WaitIdle();
  return {};
}

BlockDisk BlockDevice::Disk() const {
  DeviceLock lock(*context_);
  return disk_;
}

void BlockDevice::Exchange(std::shared_ptr<const BlockMedium> medium) {
  DeviceLock lock(*context_);
  disk_.medium = std::move(medium);
}

uint32_t BlockDevice::DeviceId() const { return VIRTIO_ID_BLOCK; }

uint64_t BlockDevice::OfferedFeatures() const {
  const uint64_t common = Bit(VIRTIO_BLK_F_SEG_MAX) | Bit(VIRTIO_BLK_F_BLK_SIZE);
  if (access_ == Access::kReadOnly) return common | Bit(VIRTIO_BLK_F_RO);
  return common | Bit(VIRTIO_BLK_F_FLUSH) | Bit(VIRTIO_BLK_F_DISCARD) |
         Bit(VIRTIO_BLK_F_WRITE_ZEROES);
}

std::vector<uint16_t> BlockDevice::QueueSizes() const { return {kQueueSize}; }

void BlockDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  virtio_blk_config config{};
  config.capacity = Sectors();
  config.seg_max = kMaxSegments;
  // Not 4096: squashfs and small ext4 images have blocks of 1 KiB, and a filesystem cannot have
  // blocks smaller than its disk's.
  config.blk_size = BlockMedium::kSectorBytes;
  if (access_ == Access::kReadWrite) {
    config.max_discard_sectors = config.max_write_zeroes_sectors = BlockRequest::kMaxClearSectors;
    config.max_discard_seg = config.max_write_zeroes_seg = BlockRequest::kMaxClearSegments;
    // A page, which holes in files are made of.
    config.discard_sector_alignment = 4096 / BlockMedium::kSectorBytes;
    config.write_zeroes_may_unmap = 1;
  }
  CopyConfig(std::as_bytes(std::span(&config, 1)), offset, data);
}

void BlockDevice::ProcessQueues() {
  DrainQueue(*context_, 0, chain_,
             [this](Virtqueue& queue, DescriptorChain&) { HandleChain(queue); });
}

void BlockDevice::HandleChain(Virtqueue& queue) {
  std::unique_ptr<BlockRequest> request;
  if (spare_.empty()) {
    request = std::make_unique<BlockRequest>();
  } else {
    request = std::move(spare_.back());
    spare_.pop_back();
  }
  const auto verdict = request->Parse(chain_, disk_, access_ == Access::kReadOnly);
  if (verdict == BlockRequest::Verdict::kBroken)
    return queue.MarkBroken("a block request without header or status");
  // Images are in the page cache as a rule; then a thread's wake-up would be most of the time.
  if (verdict == BlockRequest::Verdict::kDone || request->TryExecuteNow())
    return Finish(std::move(request));
  io_.Submit(std::move(request));
}

void BlockDevice::Finish(std::unique_ptr<BlockRequest> request) {
  const uint32_t written = request->Answer();
  context_->Queue(0).AddUsed(request->head, written);
  spare_.push_back(std::move(request));
}

// On an I/O thread. Also while paused: a pause waits for it.
void BlockDevice::Deliver() {
  DeviceLock lock(*context_);
  while (auto request = io_.TakeCompleted()) Finish(std::move(request));
}

void BlockDevice::Reset() { io_.Cancel(); }

void BlockDevice::Save(ByteWriter& out) const { out.Put(Sectors()); }

Result<void> BlockDevice::Restore(ByteReader& in) {
  if (in.Get<uint64_t>() != Sectors() || !in.Ok()) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore block device", "the disk had another size");
  }
  return {};
}

}  // namespace vmfork
