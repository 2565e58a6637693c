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
  host_.copied = Bounded(written, kMaxCopiedBytes);
  host_.mapped = Bounded(Subtract(used, host_.copied), kMaxMappedBytes);
  has_host_ = true;
}

bool EarlyPages::HasHostUse() const {
  std::lock_guard lock(mutex_);
  return has_host_;
}

void EarlyPages::AddStart(std::span<const PageRun> touched, std::span<const PageRun> written) {
  std::lock_guard lock(mutex_);
  if (starts_ >= kStarts) return;
  if (starts_++ == 0) {
    start_.mapped.assign(touched.begin(), touched.end());
    start_.copied.assign(written.begin(), written.end());
  } else {
    start_ = {.mapped = Intersect(start_.mapped, touched),
              .copied = Intersect(start_.copied, written)};
  }
  if (starts_ < kStarts) return;
  start_.copied = Bounded(start_.copied, kMaxCopiedBytes);
  start_.mapped =
      Bounded(Subtract(Unite(host_.mapped, start_.mapped), start_.copied), kMaxMappedBytes);
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
  return starts_ < kStarts ? host_ : start_;
}

}  // namespace vmfork
