// Writing a layer's pages into its file, on as many threads as are idle: a VM stands still
// meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/worker_pool.h"
#include "memory/page_runs.h"

namespace vmfork {

// Bytes of memory and where in the file they belong. Whole pages.
struct LayerPart {
  std::span<const std::byte> bytes;
  uint64_t file_offset = 0;
};

// Into a file that reads as zero where nothing was written: pages that are all zero are left alone,
// and the result is where they would be in the file, in any order. Returns when all is written or
// something failed, and nothing is being read or written any more. Threads of `helpers` (may be
// null) only take a share when they get to it in time: what else keeps them busy delays nothing.
Result<std::vector<PageRun>> WriteLayer(int fd, std::span<const LayerPart> parts,
                                        WorkerPool* helpers);

}  // namespace vmfork
