// Which pages of a private view a VM owns, exactly, from the kernel's page tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace vmfork {

// Offsets into the scanned range, multiples of the page size.
struct PageRun {
  uint64_t start = 0;
  uint64_t size = 0;
};

// Adds a run that begins at or after the end of the last one; joins the two where what lies between
// them is no larger than that.
void AppendRun(std::vector<PageRun>& runs, PageRun run, uint64_t joined_gap_bytes = 0);

struct PageCounts {
  uint64_t shared_bytes = 0;  // present, the file's page
  uint64_t owned_bytes = 0;   // present or swapped, private to this mapping
};

// `range` is page-aligned memory of this process. Uses PAGEMAP_SCAN (Linux 6.7), else
// /proc/self/pagemap.
Result<std::vector<PageRun>> FindOwnedPages(std::span<const std::byte> range);
// The same for all pages that are present, also those that are the file's.
Result<std::vector<PageRun>> FindPresentPages(std::span<const std::byte> range);
Result<PageCounts> CountPages(std::span<const std::byte> range);

}  // namespace vmfork
