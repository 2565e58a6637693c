// Learning from the first clones.
#include "memory/early_pages.h"

#include <algorithm>

namespace vmfork {

namespace {
// The second start removes what the first one did for its own purposes.
constexpr unsigned kStarts = 2;

std::vector<PageRun> Bounded(std::span<const PageRun> runs, uint64_t room) {
  std::vector<PageRun> kept;
  for (PageRun run : runs) {
    run.size = std::min(run.size, room);
    if (run.size == 0) break;
    room -= run.size;
    kept.push_back(run);
  }
  return kept;
}
}  // namespace

void EarlyPages::SetHostUse(std::span<const PageRun> used, std::span<const PageRun> written) {
  std::lock_guard lock(mutex_);
  has_host_ = true;
  host_ = {.mapped = Bounded(used, kMaxMappedBytes), .copied = Bounded(written, kMaxCopiedBytes)};
}

bool EarlyPages::HasHostUse() const {
  std::lock_guard lock(mutex_);
  return has_host_;
}

void EarlyPages::AddStart(std::span<const PageRun> written) {
  std::lock_guard lock(mutex_);
  if (starts_ >= kStarts) return;
  if (starts_++ == 0) {
    start_.assign(written.begin(), written.end());
  } else {
    start_ = Intersect(start_, written);
  }
  if (starts_ == kStarts) start_ = Bounded(start_, kMaxCopiedBytes);
}

bool EarlyPages::IsWanting() const {
  std::lock_guard lock(mutex_);
  return starts_ < kStarts;
}

PagesAhead EarlyPages::OfHost() const {
  std::lock_guard lock(mutex_);
  return host_;
}

PagesAhead EarlyPages::OfStart() const {
  std::lock_guard lock(mutex_);
  // Not before: the clones to come would own what the first one wrote for purposes of its own, and
  // seem to confirm it.
  if (starts_ < kStarts) return host_;
  return {.mapped = host_.mapped, .copied = start_};
}

}  // namespace vmfork
