// Writing layers.
#include "memory/capture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "memory/layer_writer.h"
#include "memory/page_scan.h"

namespace vmfork {

namespace {

std::vector<PageRun> Coalesce(const std::vector<PageRun>& runs, uint64_t gap_bytes) {
  std::vector<PageRun> merged;
  for (const PageRun& run : runs) AppendRun(merged, run, gap_bytes);
  return merged;
}

std::vector<Extent> ToExtents(const std::vector<PageRun>& runs,
                              const std::shared_ptr<const UniqueFd>& file) {
  std::vector<Extent> extents;
  uint64_t position = 0;
  for (const PageRun& run : runs) {
    extents.push_back({run.start, run.size, file, position});
    position += run.size;
  }
  return extents;
}

// To copy so much takes no longer than one clone's mapping around it.
constexpr uint64_t kCheapGapBytes = 4 * kPageSize;

// What the gaps between runs can be filled up to, one size after the other.
std::vector<uint64_t> GapSizes(const std::vector<PageRun>& runs) {
  std::vector<uint64_t> sizes = {kCheapGapBytes};
  for (size_t i = 1; i < runs.size(); ++i) {
    const uint64_t gap_bytes = runs[i].start - runs[i - 1].start - runs[i - 1].size;
    if (gap_bytes > kCheapGapBytes) sizes.push_back(gap_bytes);
  }
  std::ranges::sort(sizes);
  const auto repeated = std::ranges::unique(sizes);
  sizes.erase(repeated.begin(), repeated.end());
  return sizes;
}

// What to copy, so that the new image has no more than kMaxExtents: the written pages, and as few
// of the clean ones between them as will do; where no gaps suffice, everything.
Result<std::vector<PageRun>> PlanLayer(const std::vector<PageRun>& owned, const Image& parent) {
  const auto nothing = std::make_shared<const UniqueFd>();
  const std::vector<uint64_t> gaps = GapSizes(owned);
  std::vector<PageRun> best = {{0, parent.Size()}};
  // The larger the gaps that are copied, the fewer extents there are.
  for (size_t low = 0, high = gaps.size(); low < high;) {
    const size_t middle = low + (high - low) / 2;
    std::vector<PageRun> runs = Coalesce(owned, gaps[middle]);
    VMFORK_TRY(image, Image::Overlay(parent, ToExtents(runs, nothing)));
    if (image->Extents().size() <= kMaxExtents) {
      best = std::move(runs);
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return best;
}

Result<UniqueFd> NewLayer(uint64_t size) {
  UniqueFd fd(::memfd_create("vmfork-layer", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.IsValid()) return FailErrno("memfd_create");
  if (::ftruncate(fd.Get(), static_cast<off_t>(size)) != 0)
    return FailErrno("ftruncate", "image layer");
  return fd;
}

Result<std::shared_ptr<const UniqueFd>> Seal(UniqueFd fd) {
  // A writer after this moment would change what clones read from pages they have not touched.
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (::fcntl(fd.Get(), F_ADD_SEALS, kSeals) != 0) return FailErrno("fcntl", "F_ADD_SEALS");
  return std::make_shared<const UniqueFd>(std::move(fd));
}

}  // namespace

Result<std::shared_ptr<const Image>> CaptureImage(const PrivateView& view, WorkerPool* helpers) {
  const std::span<const std::byte> memory(view.Data(), view.Size());
  VMFORK_TRY(owned, FindOwnedPages(memory));
  const Image& parent = *view.GetImage();

  // Over nothing, the layer is the image: one file laid out like RAM, one extent, one mapping per
  // clone.
  if (parent.Extents().empty()) {
    VMFORK_TRY(layer, NewLayer(view.Size()));
    std::vector<LayerPart> parts;
    for (const PageRun& run : owned)
      parts.push_back({memory.subspan(run.start, run.size), run.start});
    VMFORK_CHECK(WriteLayer(layer.Get(), parts, helpers));
    VMFORK_TRY(file, Seal(std::move(layer)));
    return Image::Make(view.Size(), {{0, view.Size(), std::move(file), 0}});
  }

  if (owned.empty()) return view.GetImage();
  VMFORK_TRY(runs, PlanLayer(owned, parent));
  uint64_t layer_size = 0;
  std::vector<LayerPart> parts;
  for (const PageRun& run : runs) {
    parts.push_back({memory.subspan(run.start, run.size), layer_size});
    layer_size += run.size;
  }
  VMFORK_TRY(layer, NewLayer(layer_size));
  VMFORK_CHECK(WriteLayer(layer.Get(), parts, helpers));
  VMFORK_TRY(file, Seal(std::move(layer)));
  return Image::Overlay(parent, ToExtents(runs, file));
}

}  // namespace vmfork
