// Reads what images and files hold without mapping it: a read fault would fill the holes of a memfd
// with pages, and a mapping of a file that somebody shortens ends in SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "memory/image.h"
#include "memory/page_content.h"
#include "memory/page_runs.h"

namespace vmfork {

// How a file is read.
struct FileReading {
  // Leaves the page cache as it was: what it holds stays, what was read beside that does not, where
  // the kernel can do so (Linux 6.14). Dropping what was read by posix_fadvise() would also take
  // what clones have read and will read again, and shared memory cannot be read around the cache.
  // On older kernels such pages are merely the first to go, as any that were used once.
  bool in_passing = false;
  uint64_t bytes = 0;  // that were read
};

// The content of a range of a file: the runs of pages that are not all zero, in ascending order.
// What lies beyond its end is zero. Errors: kSystem, the visitor's.
Result<void> ForEachFileContent(int fd, PageRun range, const PageVisitor& visit,
                                FileReading* reading = nullptr);
// The content of a range of an image, by RAM offset.
Result<void> ForEachImageContent(const Image& image, PageRun range, const PageVisitor& visit);

// The ranges in which two images of one size differ, whole pages. Only where they are not the same
// part of the same file are they read. Runs that are no further apart than `joined_gap_bytes` are
// joined: as parts of a layer, each run is one more mapping for every clone. Error: kSystem.
Result<std::vector<PageRun>> FindDifferences(const Image& a, const Image& b,
                                             uint64_t joined_gap_bytes = kSmallGapBytes);

}  // namespace vmfork
