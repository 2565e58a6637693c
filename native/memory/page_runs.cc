// Sweeps over sorted runs.
#include "memory/page_runs.h"

#include <algorithm>

namespace vmfork {

void AppendRun(std::vector<PageRun>& runs, PageRun run, uint64_t joined_gap_bytes) {
  if (!runs.empty() && run.start - runs.back().End() <= joined_gap_bytes) {
    runs.back().size = run.End() - runs.back().start;
  } else {
    runs.push_back(run);
  }
}

std::vector<PageRun> Unite(std::span<const PageRun> one, std::span<const PageRun> other) {
  std::vector<PageRun> sorted(one.size() + other.size());
  std::ranges::merge(one, other, sorted.begin(), {}, &PageRun::start, &PageRun::start);
  std::vector<PageRun> united;
  uint64_t end = 0;
  for (const PageRun& run : sorted) {
    const uint64_t start = std::max(run.start, end);
    if (run.End() <= start) continue;
    AppendRun(united, {start, run.End() - start});
    end = run.End();
  }
  return united;
}

std::vector<PageRun> Subtract(std::span<const PageRun> from, std::span<const PageRun> what) {
  std::vector<PageRun> left;
  size_t next = 0;  // of `what`, the first that ends after what has been dealt with
  for (const PageRun& run : from) {
    uint64_t start = run.start;
    while (next < what.size() && what[next].End() <= start) ++next;
    for (size_t i = next; i < what.size() && what[i].start < run.End(); ++i) {
      if (what[i].start > start) AppendRun(left, {start, what[i].start - start});
      start = what[i].End();
    }
    if (start < run.End()) AppendRun(left, {start, run.End() - start});
  }
  return left;
}

std::vector<PageRun> Intersect(std::span<const PageRun> one, std::span<const PageRun> other) {
  return Subtract(one, Subtract(one, other));
}

}  // namespace vmfork
