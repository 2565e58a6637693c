// Making layers. A layer's file is laid out like RAM: where a page belongs does not depend on what
// else it will hold, so it can be made before that is known.
#include "memory/capture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <tuple>

#include "base/file.h"
#include "memory/image_content.h"
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
  extents.reserve(runs.size());
  for (const PageRun& run : runs) extents.push_back({run.start, run.size, file, run.start});
  return extents;
}

// To copy so much takes no longer than one clone's mapping around it.
constexpr uint64_t kCheapGapBytes = 4 * kPageSize;

// What the gaps between runs can be filled up to, one size after the other.
std::vector<uint64_t> GapSizes(const std::vector<PageRun>& runs) {
  std::vector<uint64_t> sizes = {kCheapGapBytes};
  for (size_t i = 1; i < runs.size(); ++i) {
    const uint64_t gap_bytes = runs[i].start - runs[i - 1].End();
    if (gap_bytes > kCheapGapBytes) sizes.push_back(gap_bytes);
  }
  std::ranges::sort(sizes);
  const auto repeated = std::ranges::unique(sizes);
  sizes.erase(repeated.begin(), repeated.end());
  return sizes;
}

// What to copy, so that the new image has no more than kMaxExtents: the written pages, and as few
// of the clean ones between them as will do; where no gaps suffice, everything. Over nothing, the
// layer is the image: one extent, one mapping per clone.
Result<std::vector<PageRun>> PlanLayer(const std::vector<PageRun>& owned, const Image& parent) {
  if (parent.Extents().empty()) return std::vector<PageRun>{{0, parent.Size()}};
  if (owned.empty()) return owned;
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

}  // namespace

// A layer's file, counted until the last image that it is a part of is gone.
struct Capture::Layer {
  Layer(UniqueFd opened, std::shared_ptr<LayerTally> counted_in)
      : file(std::move(opened)), tally(std::move(counted_in)) {}
  ~Layer() {
    if (tally != nullptr) tally->Remove(bytes);
  }
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  void Count() {
    struct stat status{};
    if (tally == nullptr || ::fstat(file.Get(), &status) != 0) return;
    constexpr uint64_t kBlockBytes = 512;  // stat(2)
    bytes = static_cast<uint64_t>(status.st_blocks) * kBlockBytes;
    tally->Add(bytes);
  }

  const UniqueFd file;
  const std::shared_ptr<LayerTally> tally;  // null: not counted
  uint64_t bytes = 0;
};

Capture::Capture(const PrivateView& view, std::shared_ptr<Layer> layer)
    : view_(&view), layer_(std::move(layer)), file_(layer_, &layer_->file) {}

Result<Capture> Capture::Prepare(const PrivateView& view, std::shared_ptr<LayerTally> tally) {
  VMFORK_TRY(owned, FindOwnedPages(std::span(view.Data(), view.Size())));
  VMFORK_TRY(fd, NewLayer(view.Size()));
  Capture capture(view, std::make_shared<Layer>(std::move(fd), std::move(tally)));
  VMFORK_TRY(runs, PlanLayer(owned, *view.GetImage()));
  capture.planned_ = std::move(runs);
  capture.Allocate(owned);
  capture.clean_ = Subtract(capture.planned_, owned);
  VMFORK_CHECK(capture.CopyClean());
  return capture;
}

void Capture::Allocate(const std::vector<PageRun>& owned) {
  for (const PageRun& run : owned) {
    std::ignore =
        ::fallocate(file_->Get(), 0, static_cast<off_t>(run.start), static_cast<off_t>(run.size));
  }
}

Result<void> Capture::CopyClean() {
  for (const PageRun& run : clean_) {
    VMFORK_CHECK(ForEachImageContent(*view_->GetImage(), run,
                                     [this](uint64_t at, std::span<const std::byte> pages) {
                                       return WriteFully(file_->Get(), pages, at);
                                     }));
  }
  return {};
}

Result<std::shared_ptr<const Image>> Capture::Take(WorkerPool* helpers) {
  VMFORK_TRY(owned, FindOwnedPages(std::span(view_->Data(), view_->Size())));
  VMFORK_TRY(runs, PlanLayer(Unite(planned_, owned), *view_->GetImage()));
  if (runs.empty()) return view_->GetImage();
  VMFORK_CHECK(Write(runs, owned, helpers));
  return Image::Overlay(*view_->GetImage(), ToExtents(runs, file_));
}

Result<void> Capture::Write(const std::vector<PageRun>& runs, const std::vector<PageRun>& owned,
                            WorkerPool* helpers) {
  const std::span<const std::byte> memory(view_->Data(), view_->Size());
  // Written since: not where they are zero only, because the file holds something else there.
  for (const PageRun& run : Intersect(clean_, owned))
    VMFORK_CHECK(WriteFully(file_->Get(), memory.subspan(run.start, run.size), run.start));
  std::vector<LayerPart> parts;
  for (const PageRun& run : Subtract(runs, clean_))
    parts.push_back({.bytes = memory.subspan(run.start, run.size), .file_offset = run.start});
  VMFORK_TRY(left_zero, WriteLayer(file_->Get(), parts, helpers));
  left_zero_ = std::move(left_zero);
  return {};
}

Result<void> Capture::Finish() {
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  for (const PageRun& run : left_zero_) {
    std::ignore = ::fallocate(file_->Get(), kPunch, static_cast<off_t>(run.start),
                              static_cast<off_t>(run.size));
  }
  layer_->Count();
  // A writer after this moment would change what clones read from pages they have not touched. Not
  // F_SEAL_WRITE, which waits while the kernel holds on to any of the pages, as it does while the
  // source reads them, and may fail (mm/memfd.c, memfd_wait_for_pins()). It differs in nothing but
  // shared mappings made before, of which there are none.
  constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (::fcntl(file_->Get(), F_ADD_SEALS, kSeals) != 0) return FailErrno("fcntl", "F_ADD_SEALS");
  return {};
}

}  // namespace vmfork
