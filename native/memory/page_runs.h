// Runs of pages and what can be done with sets of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vmfork {

// Offsets into a range of memory or a file, multiples of the page size.
struct PageRun {
  uint64_t start = 0;
  uint64_t size = 0;

  uint64_t End() const { return start + size; }
};

// Adds a run that begins at or after the end of the last one; joins the two where what lies between
// them is no larger than that.
void AppendRun(std::vector<PageRun>& runs, PageRun run, uint64_t joined_gap_bytes = 0);

// Of runs that are sorted and do not overlap; so is what they return.
std::vector<PageRun> Unite(std::span<const PageRun> one, std::span<const PageRun> other);
std::vector<PageRun> Subtract(std::span<const PageRun> from, std::span<const PageRun> what);
std::vector<PageRun> Intersect(std::span<const PageRun> one, std::span<const PageRun> other);

}  // namespace vmfork
