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
  start_ = starts_++ == 0 ? Bounded(written, kMaxCopiedBytes) : Intersect(start_, written);
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
  if (starts_ == 0) return host_;
  return {.mapped = host_.mapped, .copied = start_};
}

}  // namespace vmfork
