// Which pages of a private view a VM owns, exactly, from the kernel's page tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/page_runs.h"

namespace vmfork {

struct PageCounts {
  uint64_t shared_bytes = 0;  // present, the file's page
  uint64_t owned_bytes = 0;   // present or swapped, private to this mapping
};

// `range` is page-aligned memory of this process; runs are offsets into it. Uses PAGEMAP_SCAN
// (Linux 6.7), else /proc/self/pagemap.
Result<std::vector<PageRun>> FindOwnedPages(std::span<const std::byte> range);
// The same for all pages that are present, also those that are the file's.
Result<std::vector<PageRun>> FindPresentPages(std::span<const std::byte> range);
Result<PageCounts> CountPages(std::span<const std::byte> range);

}  // namespace vmfork
