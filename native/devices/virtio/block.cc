// Requests of a read-only disk.
#include "devices/virtio/block.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "devices/virtio/iovec.h"

namespace vmfork {

namespace {
constexpr uint16_t kQueueSize = 64;
constexpr uint32_t kMaxSegments = kQueueSize - 2;  // beside the header and the status
// Linux asks for 1.25 MiB at most (BLK_DEF_MAX_SECTORS); far more would hold up the loop's thread.
constexpr size_t kMaxRequestBytes = 16 << 20;
constexpr size_t kStatusBytes = 1;

uint64_t Bit(unsigned feature) { return 1ULL << feature; }
}  // namespace

BlockDevice::BlockDevice(std::shared_ptr<const File> file, std::string_view id)
    : file_(std::move(file)),
      id_(id.substr(0, kIdBytes)),
      capacity_sectors_(file_->Size() / kSectorBytes) {}

uint32_t BlockDevice::DeviceId() const { return VIRTIO_ID_BLOCK; }

uint64_t BlockDevice::OfferedFeatures() const {
  return Bit(VIRTIO_BLK_F_RO) | Bit(VIRTIO_BLK_F_SEG_MAX) | Bit(VIRTIO_BLK_F_BLK_SIZE);
}

std::vector<uint16_t> BlockDevice::QueueSizes() const { return {kQueueSize}; }

void BlockDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  virtio_blk_config config{};
  config.capacity = capacity_sectors_;
  config.seg_max = kMaxSegments;
  // Not 4096: squashfs and small ext4 images have blocks of 1 KiB, and a filesystem cannot have
  // blocks smaller than its disk's.
  config.blk_size = kSectorBytes;
  CopyConfig(std::as_bytes(std::span(&config, 1)), offset, data);
}

void BlockDevice::ProcessQueues() {
  DrainQueue(*context_, 0, chain_, [this](Virtqueue& queue, const DescriptorChain& chain) {
    HandleRequest(queue, chain);
  });
}

void BlockDevice::HandleRequest(Virtqueue& queue, const DescriptorChain& chain) {
  // Section 5.2.6: header, data, status. Segments may be cut anywhere (section 2.7.4).
  virtio_blk_outhdr header;
  if (!CopyFromIovecs(chain.readable, std::as_writable_bytes(std::span(&header, 1))) ||
      chain.writable_bytes < kStatusBytes) {
    return queue.MarkBroken("a block request without header or status");
  }
  const size_t data_bytes = chain.writable_bytes - kStatusBytes;
  CutIovecs(chain.writable, 0, data_bytes, data_);
  const uint8_t status = Execute(header.type, header.sector, data_bytes);
  CutIovecs(chain.writable, data_bytes, kStatusBytes, rest_);
  CopyToIovecs(rest_, std::as_bytes(std::span(&status, 1)));
  const size_t written = status == VIRTIO_BLK_S_OK ? data_bytes : 0;
  queue.AddUsed(chain.head, static_cast<uint32_t>(written + kStatusBytes));
}

uint8_t BlockDevice::Execute(uint32_t type, uint64_t sector, size_t data_bytes) {
  switch (type) {
    case VIRTIO_BLK_T_IN:
      return ReadSectors(sector, data_bytes);
    case VIRTIO_BLK_T_OUT:
      return VIRTIO_BLK_S_IOERR;  // section 5.2.6.2: a write to a read-only disk
    case VIRTIO_BLK_T_FLUSH:
      return VIRTIO_BLK_S_OK;
    case VIRTIO_BLK_T_GET_ID:
      return data_bytes == kIdBytes ? WriteId() : uint8_t{VIRTIO_BLK_S_IOERR};
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
}

uint8_t BlockDevice::ReadSectors(uint64_t sector, size_t data_bytes) {
  const uint64_t sectors = data_bytes / kSectorBytes;
  if (data_bytes % kSectorBytes != 0 || data_bytes > kMaxRequestBytes ||
      sector > capacity_sectors_ || sectors > capacity_sectors_ - sector) {
    return VIRTIO_BLK_S_IOERR;
  }
  // On the loop's thread: images are in the page cache as a rule. A cold read stalls the devices of
  // the VMs that share the thread for as long as the host's disk takes.
  size_t done = 0;
  while (done < data_bytes) {
    CutIovecs(data_, done, data_bytes - done, rest_);
    const auto offset = static_cast<off_t>(sector * kSectorBytes + done);
    const ssize_t got =
        ::preadv(file_->Get(), rest_.data(), static_cast<int>(rest_.size()), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return VIRTIO_BLK_S_IOERR;  // also when somebody has truncated the file
    done += static_cast<size_t>(got);
  }
  return VIRTIO_BLK_S_OK;
}

uint8_t BlockDevice::WriteId() const {
  std::array<char, kIdBytes> id{};  // padded with zeros
  id_.copy(id.data(), id.size());
  CopyToIovecs(data_, std::as_bytes(std::span(id)));
  return VIRTIO_BLK_S_OK;
}

void BlockDevice::Save(ByteWriter& out) const { out.Put(capacity_sectors_); }

Result<void> BlockDevice::Restore(ByteReader& in) {
  if (in.Get<uint64_t>() != capacity_sectors_ || !in.Ok()) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore block device", "the disk had another size");
  }
  return {};
}

}  // namespace vmfork
