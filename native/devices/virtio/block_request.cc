// Checking and executing requests.
#include "devices/virtio/block_request.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>

#include "devices/virtio/iovec.h"

namespace vmfork {

namespace {
constexpr size_t kStatusBytes = 1;
// Copied while the loop's thread holds the device's lock: a fraction of a millisecond.
constexpr size_t kMaxInlineBytes = 2 << 20;
constexpr size_t kZeroBytes = 256 << 10;
// Only means that the answer is not known yet.
constexpr uint8_t kUndecided = 0xff;

bool Contains(const BlockMedium& medium, uint64_t sector, uint64_t sectors) {
  return sector <= medium.Sectors() && sectors <= medium.Sectors() - sector;
}

// For filesystems that cannot make holes.
bool WriteZeros(int fd, uint64_t offset_bytes, uint64_t size_bytes) {
  static const std::vector<std::byte> zeros(kZeroBytes);
  while (size_bytes > 0) {
    const size_t size = std::min<uint64_t>(size_bytes, zeros.size());
    const ssize_t written = ::pwrite(fd, zeros.data(), size, static_cast<off_t>(offset_bytes));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    offset_bytes += static_cast<uint64_t>(written);
    size_bytes -= static_cast<uint64_t>(written);
  }
  return true;
}
}  // namespace

BlockRequest::Verdict BlockRequest::Parse(const DescriptorChain& chain, const BlockDisk& disk,
                                          bool read_only) {
  // Section 5.2.6: header, data, status. Segments may be cut anywhere (section 2.7.4).
  virtio_blk_outhdr header;
  if (!CopyFromIovecs(chain.readable, std::as_writable_bytes(std::span(&header, 1))) ||
      chain.writable_bytes < kStatusBytes) {
    return Verdict::kBroken;
  }
  head = chain.head;
  type_ = header.type;
  medium_ = disk.medium;
  done_bytes_ = 0;
  const size_t writable_bytes = chain.writable_bytes - kStatusBytes;
  CutIovecs(chain.writable, writable_bytes, kStatusBytes, status_byte_);
  if (type_ == VIRTIO_BLK_T_IN || type_ == VIRTIO_BLK_T_GET_ID) {
    data_bytes_ = CutIovecs(chain.writable, 0, writable_bytes, data_);
  } else {
    data_bytes_ = CutIovecs(chain.readable, sizeof header, chain.readable_bytes, data_);
  }
  switch (type_) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
      status = ParseTransfer(header.sector, disk, read_only);
      break;
    case VIRTIO_BLK_T_FLUSH:
      status = ParseFlush(disk);
      break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      status = ParseRanges(disk, read_only);
      break;
    case VIRTIO_BLK_T_GET_ID:
      status = WriteId(disk.serial);
      break;
    default:
      status = VIRTIO_BLK_S_UNSUPP;
  }
  return status == kUndecided ? Verdict::kExecute : Verdict::kDone;
}

uint8_t BlockRequest::ParseTransfer(uint64_t sector, const BlockDisk& disk, bool read_only) {
  const bool writes = type_ == VIRTIO_BLK_T_OUT;
  // Section 5.2.6.2: a write to a read-only disk fails. An empty drive has no sectors.
  if (disk.medium == nullptr || (writes && (read_only || !disk.medium->IsWritable())) ||
      data_bytes_ % BlockMedium::kSectorBytes != 0 || data_bytes_ > kMaxDataBytes ||
      !Contains(*disk.medium, sector, data_bytes_ / BlockMedium::kSectorBytes)) {
    return VIRTIO_BLK_S_IOERR;
  }
  offset_bytes_ = sector * BlockMedium::kSectorBytes;
  return kUndecided;
}

uint8_t BlockRequest::ParseFlush(const BlockDisk& disk) {
  const bool matters = disk.medium != nullptr && disk.medium->GetKind() == BlockMedium::Kind::kFile;
  return matters ? kUndecided : uint8_t{VIRTIO_BLK_S_OK};
}

uint8_t BlockRequest::ParseRanges(const BlockDisk& disk, bool read_only) {
  using Segment = virtio_blk_discard_write_zeroes;
  if (read_only) return VIRTIO_BLK_S_UNSUPP;
  const size_t count = data_bytes_ / sizeof(Segment);
  std::array<Segment, kMaxClearSegments> segments;
  if (!disk.IsWritable() || count == 0 || count > segments.size() ||
      data_bytes_ % sizeof(Segment) != 0) {
    return VIRTIO_BLK_S_IOERR;
  }
  CopyFromIovecs(data_, std::as_writable_bytes(std::span(segments).first(count)));
  ranges_.clear();
  for (const Segment& segment : std::span(segments).first(count)) {
    // Section 5.2.6.2: flags the device does not know are unsupported, and DISCARD has none.
    const uint32_t known =
        type_ == VIRTIO_BLK_T_DISCARD ? 0 : uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP};
    if ((segment.flags & ~known) != 0) return VIRTIO_BLK_S_UNSUPP;
    if (segment.num_sectors > kMaxClearSectors ||
        !Contains(*disk.medium, segment.sector, segment.num_sectors)) {
      return VIRTIO_BLK_S_IOERR;
    }
    ranges_.push_back({segment.sector * BlockMedium::kSectorBytes,
                       segment.num_sectors * BlockMedium::kSectorBytes});
  }
  return kUndecided;
}

uint8_t BlockRequest::WriteId(std::string_view serial) {
  std::array<char, kIdBytes> id{};  // padded with zeros
  serial.copy(id.data(), id.size());
  if (data_bytes_ != id.size()) return VIRTIO_BLK_S_IOERR;
  CopyToIovecs(data_, std::as_bytes(std::span(id)));
  return VIRTIO_BLK_S_OK;
}

bool BlockRequest::TryExecuteNow() {
  if (type_ != VIRTIO_BLK_T_IN || data_bytes_ > kMaxInlineBytes || !Read(true)) return false;
  status = VIRTIO_BLK_S_OK;
  return true;
}

void BlockRequest::Execute() {
  bool good = true;
  if (type_ == VIRTIO_BLK_T_FLUSH) {
    good = ::fdatasync(medium_->Fd()) == 0;
  } else if (type_ == VIRTIO_BLK_T_IN) {
    good = Read(false);
  } else if (type_ == VIRTIO_BLK_T_OUT) {
    good =
        data_bytes_ == 0 || medium_->Change(offset_bytes_, data_bytes_, [this] { return Write(); });
  } else {
    for (const Range& range : ranges_) {
      good = good &&
             (range.size_bytes == 0 || medium_->Change(range.offset_bytes, range.size_bytes,
                                                       [this, &range] { return Clear(range); }));
    }
  }
  status = good ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

// Goes on from done_bytes_. `now`: stops where it would have to wait (RWF_NOWAIT, preadv2(2)).
bool BlockRequest::Read(bool now) {
  while (done_bytes_ < data_bytes_) {
    const uint64_t offset = offset_bytes_ + done_bytes_;
    const auto [fd, size_bytes] = medium_->Find(offset, data_bytes_ - done_bytes_);
    CutIovecs(data_, done_bytes_, size_bytes, rest_);
    const ssize_t moved = ::preadv2(fd, rest_.data(), static_cast<int>(rest_.size()),
                                    static_cast<off_t>(offset), now ? RWF_NOWAIT : 0);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;  // also when somebody has truncated the file
    done_bytes_ += static_cast<size_t>(moved);
  }
  return true;
}

bool BlockRequest::Write() {
  while (done_bytes_ < data_bytes_) {
    CutIovecs(data_, done_bytes_, data_bytes_ - done_bytes_, rest_);
    const ssize_t moved = ::pwritev(medium_->Fd(), rest_.data(), static_cast<int>(rest_.size()),
                                    static_cast<off_t>(offset_bytes_ + done_bytes_));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    done_bytes_ += static_cast<size_t>(moved);
  }
  return true;
}

// A hole reads as zeros, so one way serves both. The disk is sparse anyway: nothing was reserved
// that WRITE_ZEROES without UNMAP would have to keep.
bool BlockRequest::Clear(const Range& range) const {
  if (::fallocate(medium_->Fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(range.offset_bytes),
                  static_cast<off_t>(range.size_bytes)) == 0) {
    return true;
  }
  if (errno != EOPNOTSUPP && errno != ENOSYS) return false;
  // A discard is advice (section 5.2.6.2).
  return type_ == VIRTIO_BLK_T_DISCARD ||
         WriteZeros(medium_->Fd(), range.offset_bytes, range.size_bytes);
}

uint32_t BlockRequest::Answer() {
  CopyToIovecs(status_byte_, std::as_bytes(std::span(&status, 1)));
  medium_.reset();
  const bool filled =
      status == VIRTIO_BLK_S_OK && (type_ == VIRTIO_BLK_T_IN || type_ == VIRTIO_BLK_T_GET_ID);
  return static_cast<uint32_t>((filled ? data_bytes_ : 0) + kStatusBytes);
}

}  // namespace vmfork
