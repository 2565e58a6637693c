// Opening and making media, and finding their bytes.
#include "devices/virtio/block_medium.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/file.h"
#include "devices/virtio/block_copy.h"

namespace vmfork {

namespace {

Result<BlockMedium::Identity> Identify(int fd, const std::string& path, ErrorCode refusal) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return FailErrno("fstat", path);
  BlockMedium::Identity identity{
      .device = status.st_dev,
      .inode = status.st_ino,
      .size_bytes = static_cast<uint64_t>(status.st_size),
      .modified_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
  if (S_ISBLK(status.st_mode)) {
    if (::ioctl(fd, BLKGETSIZE64, &identity.size_bytes) != 0)
      return FailErrno("BLKGETSIZE64", path);
  } else if (!S_ISREG(status.st_mode)) {
    return Fail(refusal, "open", path + " is neither a regular file nor a block device");
  }
  return identity;
}

}  // namespace

Result<std::shared_ptr<const BlockMedium>> BlockMedium::OpenScratch(const std::string& path) {
  VMFORK_TRY(file, File::OpenReadOnly(path, ErrorCode::kSnapshotInvalid));
  UniqueFd fd(::fcntl(file->Get(), F_DUPFD_CLOEXEC, 0));
  if (!fd.IsValid()) return FailErrno("fcntl", "F_DUPFD_CLOEXEC");
  return std::make_shared<const BlockMedium>(std::move(fd), Kind::kScratch,
                                             Identity{.size_bytes = file->Size()}, path);
}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::Open(const std::string& path, Kind kind,
                                                             ErrorCode refusal) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer. It means nothing to disks.
  const int access = kind == Kind::kImage ? O_RDONLY : O_RDWR;
  UniqueFd fd(::open(path.c_str(), access | O_CLOEXEC | O_NONBLOCK));
  if (!fd.IsValid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) return FailErrno("open", path);
    return Fail(refusal, "open", path, errno);
  }
  VMFORK_TRY(identity, Identify(fd.Get(), path, refusal));
  auto medium = std::make_shared<BlockMedium>(std::move(fd), kind, identity,
                                              kind == Kind::kScratch ? std::string() : path);
  if (kind == Kind::kFile) {
    VMFORK_TRY(changed, BlockMap::Make(identity.size_bytes));
    medium->changed_ = std::make_unique<BlockMap>(std::move(changed));
  }
  return medium;
}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::MakeScratch(uint64_t size_bytes,
                                                                    const std::string& directory) {
  VMFORK_TRY(fd, MakeNamelessFile(size_bytes, directory));
  return std::make_shared<const BlockMedium>(std::move(fd), Kind::kScratch,
                                             Identity{.size_bytes = size_bytes}, std::string());
}

BlockMedium::BlockMedium(UniqueFd fd, Kind kind, Identity identity, std::string path)
    : kind_(kind),
      identity_(identity),
      path_(std::move(path)),
      layers_({std::make_shared<BlockLayer>(std::move(fd))}) {}

Result<std::shared_ptr<const BlockMedium>> BlockMedium::Fork(const std::string& directory) const {
  VMFORK_TRY(top, MakeUpperLayer(SizeBytes(), directory));
  BlockLayers layers{std::move(top)};
  layers.insert(layers.end(), layers_.begin(), layers_.end());
  return std::make_shared<const BlockMedium>(std::move(layers), SizeBytes());
}

Result<void> BlockMedium::CopyTo(int fd) const {
  if (layers_.size() == 1 && TryClone(Fd(), fd)) return {};
  if (::ftruncate(fd, static_cast<off_t>(SizeBytes())) != 0)
    return FailDisk("ftruncate", "copy of a disk");
  return CopyLayers(layers_, SizeBytes(), fd);
}

BlockMedium::Piece BlockMedium::Find(uint64_t offset_bytes, uint64_t size_bytes) const {
  if (layers_.size() == 1) return {Fd(), size_bytes};
  const auto [layer, run] = FindPiece(layers_, BlockMap::Covering(offset_bytes, size_bytes));
  const uint64_t end = std::min(offset_bytes + size_bytes, run.end * BlockMap::kBlockBytes);
  return {layer->fd.Get(), end - offset_bytes};
}

// Copies a block that the top layer does not hold into its file. That alone does not make it count.
bool BlockMedium::FillBlock(uint64_t block) const {
  std::array<std::byte, BlockMap::kBlockBytes> bytes;
  const uint64_t offset = block * bytes.size();
  const size_t size = std::min<uint64_t>(bytes.size(), SizeBytes() - offset);
  const int fd = Find(offset, size).fd;
  size_t done = 0;
  while (done < size) {
    const ssize_t got =
        ::pread(fd, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    done += static_cast<size_t>(got);
  }
  return WriteFully(Fd(), std::span(bytes).first(size), offset).has_value();
}

bool BlockMedium::Change(uint64_t offset_bytes, uint64_t size_bytes,
                         const std::function<bool()>& write) const {
  BlockLayer& top = *layers_.front();
  const BlockMap::Run run = BlockMap::Covering(offset_bytes, size_bytes);
  if (top.IsWhole() || top.held->Holds(run)) {
    const bool good = write();
    // After it: whoever takes the blocks out sooner, and copies them, finds them here again.
    if (changed_ != nullptr) changed_->Add(run);
    return good;
  }
  // One at a time: what another writes to the rest of the first or last block must not be lost.
  std::lock_guard lock(top.mutex);
  const uint64_t end_bytes = offset_bytes + size_bytes;
  const bool fills_first = offset_bytes % BlockMap::kBlockBytes != 0;
  const bool fills_last = end_bytes % BlockMap::kBlockBytes != 0 && end_bytes != SizeBytes();
  for (const auto& [block, is_partial] :
       {std::pair(run.first, fills_first), std::pair(run.end - 1, fills_last)}) {
    if (is_partial && !top.held->Holds({block, block + 1}) && !FillBlock(block)) return false;
  }
  if (!write()) return false;
  top.held->Add(run);
  return true;
}

std::shared_ptr<const BlockMedium> BlockImages::Share(std::shared_ptr<const BlockMedium> opened) {
  if (opened->IsWritable()) return opened;
  std::lock_guard lock(mutex_);
  std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const BlockMedium>& known = open_[opened->GetIdentity()];
  if (auto shared = known.lock()) return shared;
  known = opened;
  return opened;
}

}  // namespace vmfork
