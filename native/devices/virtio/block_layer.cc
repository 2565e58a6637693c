// Making layers, finding blocks in them, and keeping them few.
#include "devices/virtio/block_layer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "devices/virtio/block_copy.h"

namespace vmfork {

namespace {

// Each is looked at where a block is searched for, and is a descriptor. Reached after so many
// freezes of one disk, each with something written before it.
constexpr size_t kMostLayers = 14;

// So many blocks are looked at in one go: searches of sparse maps do not start over at each piece.
constexpr uint64_t kWindowBlocks = (64 << 20) / BlockMap::kBlockBytes;

Result<UniqueFd> OpenNameless(const std::string& directory) {
  UniqueFd fd;
  if (directory.empty()) {
    fd = UniqueFd(::memfd_create("vmfork-scratch", MFD_CLOEXEC));
    if (!fd.IsValid()) return FailDisk("memfd_create", "scratch disk");
    return fd;
  }
  std::error_code ignored;  // open() says what is wrong with it
  std::filesystem::create_directories(directory, ignored);
  fd = UniqueFd(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  // open(2), O_TMPFILE: EOPNOTSUPP where the filesystem lacks it, EISDIR where the kernel does.
  if (!fd.IsValid() && (errno == EOPNOTSUPP || errno == EISDIR)) {
    std::string path = directory + "/scratch.XXXXXX";
    fd = UniqueFd(::mkostemp(path.data(), O_CLOEXEC));
    if (fd.IsValid()) ::unlink(path.c_str());
  }
  if (!fd.IsValid()) return FailDisk("open scratch disk", directory);
  return fd;
}

uint64_t BytesOnHost(const BlockLayer& layer) {
  struct stat status{};
  constexpr uint64_t kUnitBytes = 512;  // stat(2)
  return ::fstat(layer.fd.Get(), &status) == 0
             ? static_cast<uint64_t>(status.st_blocks) * kUnitBytes
             : 0;
}

// How many of the upper layers to make one of: half of what may be, and on until the next one is so
// large that it is copied seldom.
size_t CountToMerge(const BlockLayers& layers) {
  constexpr uint64_t kMuchLarger = 2;
  size_t count = 0;
  uint64_t bytes = 0;
  while (count < layers.size()) {
    const uint64_t next = BytesOnHost(*layers[count]);
    if (count >= kMostLayers / 2 && next > kMuchLarger * bytes) break;
    bytes += next;
    ++count;
  }
  return count;
}

}  // namespace

bool BlockLayer::IsUnwritten(uint64_t disk_bytes) const {
  if (IsWhole()) return false;
  const BlockMap::Run all = BlockMap::Covering(0, disk_bytes);
  return held->Find(all, true) == all.end;
}

Result<UniqueFd> MakeNamelessFile(uint64_t size_bytes, const std::string& directory) {
  VMFORK_TRY(fd, OpenNameless(directory));
  if (::ftruncate(fd.Get(), static_cast<off_t>(size_bytes)) != 0)
    return FailDisk("ftruncate", "scratch disk of " + std::to_string(size_bytes) + " bytes");
  return fd;
}

Result<std::shared_ptr<BlockLayer>> MakeUpperLayer(uint64_t disk_bytes,
                                                   const std::string& directory) {
  VMFORK_TRY(fd, MakeNamelessFile(disk_bytes, directory));
  VMFORK_TRY(map, BlockMap::Make(disk_bytes));
  return std::make_shared<BlockLayer>(std::move(fd), std::move(map));
}

BlockPiece FindPiece(std::span<const std::shared_ptr<BlockLayer>> layers, BlockMap::Run within) {
  for (const auto& layer : layers) {
    if (layer->IsWhole()) return {layer.get(), within};
    const uint64_t first = layer->held->Find(within, true);
    if (first == within.first) return {layer.get(), {first, layer->held->Find(within, false)}};
    within.end = first;  // there it hides what is below
  }
  return {nullptr, within};
}

Result<void> CopyLayers(std::span<const std::shared_ptr<BlockLayer>> layers, uint64_t disk_bytes,
                        int fd) {
  const uint64_t end = BlockMap::Covering(0, disk_bytes).end;
  for (uint64_t at = 0; at < end;) {
    const uint64_t window_end = layers.size() == 1 ? end : (at / kWindowBlocks + 1) * kWindowBlocks;
    const BlockPiece piece = FindPiece(layers, {at, std::min(end, window_end)});
    at = piece.run.end;
    if (piece.layer == nullptr) continue;
    VMFORK_CHECK(CopyRange(piece.layer->fd.Get(), fd, piece.run.first * BlockMap::kBlockBytes,
                           std::min(disk_bytes, piece.run.end * BlockMap::kBlockBytes), true));
  }
  return {};
}

Result<BlockLayers> Flatten(const BlockLayers& layers, uint64_t disk_bytes,
                            const std::string& directory) {
  if (layers.size() < kMostLayers) return layers;
  const size_t count = CountToMerge(layers);
  const auto merged = std::span(layers).first(count);
  VMFORK_TRY(fd, MakeNamelessFile(disk_bytes, directory));
  VMFORK_CHECK(CopyLayers(merged, disk_bytes, fd.Get()));
  std::shared_ptr<BlockLayer> one;
  if (merged.back()->IsWhole()) {
    one = std::make_shared<BlockLayer>(std::move(fd));
  } else {
    VMFORK_TRY(map, BlockMap::Make(disk_bytes));
    for (const auto& layer : merged) map.AddAll(*layer->held, BlockMap::Covering(0, disk_bytes));
    one = std::make_shared<BlockLayer>(std::move(fd), std::move(map));
  }
  BlockLayers few{std::move(one)};
  few.insert(few.end(), layers.begin() + static_cast<ptrdiff_t>(count), layers.end());
  return few;
}

}  // namespace vmfork
