// Capture: turns what a VM has written into a new layer, and view + layer into a new image.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/worker_pool.h"
#include "memory/page_runs.h"
#include "memory/private_view.h"

namespace vmfork {

// Extents of an image that was captured: so few that a thousand clones of it stay below what a
// process may map by default (vm.max_map_count, 65,530).
inline constexpr size_t kMaxExtents = 48;

// What layers take that somebody uses, together. Any thread.
class LayerTally {
 public:
  uint64_t Bytes() const { return bytes_; }
  void Add(uint64_t bytes) { bytes_ += bytes; }
  void Remove(uint64_t bytes) { bytes_ -= bytes; }

 private:
  std::atomic<uint64_t> bytes_ = 0;
};

// In three steps, because a VM stands still for the second one only: what takes the most time, the
// making of the file's pages, comes before, and what can wait comes after.
class Capture {
 public:
  // Makes pages of a new memfd for what the VM owns now, and copies into others what a layer with
  // few extents has to hold beside. The VM may run; what it writes from now on Take() will see.
  // `view` must outlive this. Once it is made, the layer counts in `tally` for as long as anybody
  // uses it.
  static Result<Capture> Prepare(const PrivateView& view,
                                 std::shared_ptr<LayerTally> tally = nullptr);
  // The image that equals what the view shows now. Nobody may write the view meanwhile. The view
  // itself is left as it is. Idle threads of `helpers` take a share of the copying.
  Result<std::shared_ptr<const Image>> Take(WorkerPool* helpers = nullptr);
  // Turns pages that are all zero into holes, where the host can, and seals the layer. Nobody else
  // may get the image before.
  Result<void> Finish();

 private:
  struct Layer;
  Capture(const PrivateView& view, std::shared_ptr<Layer> layer);
  // Pages are made on writing as well: a host short of memory may rather do that.
  void Allocate(const std::vector<PageRun>& owned);
  Result<void> CopyClean();
  Result<void> Write(const std::vector<PageRun>& runs, const std::vector<PageRun>& owned,
                     WorkerPool* helpers);

  const PrivateView* view_;
  std::shared_ptr<Layer> layer_;          // the next one's owner
  std::shared_ptr<const UniqueFd> file_;  // laid out like RAM, with holes
  std::vector<PageRun> planned_;          // what the layer is to hold, as far as it is known
  std::vector<PageRun> clean_;            // of that: holds what the view's image holds there
  std::vector<PageRun> left_zero_;        // may have pages of the file that need not be there
};

}  // namespace vmfork
