// Learning from starts.
#include "memory/early_writes.h"

#include <algorithm>

namespace vmfork {

namespace {
// The second start removes what the first one did for its own purposes.
constexpr unsigned kStarts = 2;

std::vector<PageRun> Bounded(std::span<const PageRun> runs) {
  std::vector<PageRun> kept;
  uint64_t room = EarlyWrites::kMaxBytes;
  for (PageRun run : runs) {
    run.size = std::min(run.size, room);
    if (run.size == 0) break;
    room -= run.size;
    kept.push_back(run);
  }
  return kept;
}
}  // namespace

void EarlyWrites::SetHostWrites(std::span<const PageRun> runs) {
  std::lock_guard lock(mutex_);
  host_ = Bounded(runs);
}

void EarlyWrites::AddStart(std::span<const PageRun> runs) {
  std::lock_guard lock(mutex_);
  if (starts_ >= kStarts) return;
  start_ = starts_++ == 0 ? Bounded(runs) : Intersect(start_, runs);
}

bool EarlyWrites::IsWanting() const {
  std::lock_guard lock(mutex_);
  return starts_ < kStarts;
}

std::vector<PageRun> EarlyWrites::OfHost() const {
  std::lock_guard lock(mutex_);
  return host_;
}

std::vector<PageRun> EarlyWrites::OfStart() const {
  std::lock_guard lock(mutex_);
  return starts_ == 0 ? host_ : start_;
}

}  // namespace vmfork
