// PAGEMAP_SCAN and its older equivalent (Documentation/admin-guide/mm/pagemap.rst).
#include "memory/page_scan.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>

#include "base/unique_fd.h"
#include "memory/gpa.h"

namespace vmfork {

namespace {

// <linux/fs.h> of 6.7 and later; older headers lack it.
struct PageRegion {
  uint64_t start, end, categories;
};
struct PmScanArg {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PmScanArg);
constexpr uint64_t kFile = 1 << 2, kPresent = 1 << 3, kSwapped = 1 << 4, kPfnZero = 1 << 5;

// Bits of a /proc/self/pagemap entry.
constexpr uint64_t kEntryPresent = 1ULL << 63, kEntrySwapped = 1ULL << 62, kEntryFile = 1ULL << 61;

// Called for runs of pages that exist, in order: offset, size, whether the VM owns them.
using Visitor = std::function<void(uint64_t start, uint64_t size, bool owned)>;

Result<void> WalkWithScan(int pagemap, std::span<const std::byte> range, const Visitor& visit) {
  const auto base = reinterpret_cast<uint64_t>(range.data());
  std::array<PageRegion, 512> regions;
  PmScanArg arg{};
  arg.size = sizeof arg;
  arg.start = base;
  arg.end = base + range.size();
  arg.vec = reinterpret_cast<uint64_t>(regions.data());
  arg.vec_len = regions.size();
  // Present or swapped, and not the shared zero page that reading untouched memory maps.
  arg.category_inverted = kPfnZero;
  arg.category_mask = kPfnZero;
  arg.category_anyof_mask = kPresent | kSwapped;
  arg.return_mask = kFile;
  while (arg.start < arg.end) {
    const int count = ::ioctl(pagemap, kPagemapScan, &arg);
    if (count < 0) return FailErrno("PAGEMAP_SCAN");
    for (const PageRegion& region : std::span(regions).first(static_cast<size_t>(count))) {
      visit(region.start - base, region.end - region.start, (region.categories & kFile) == 0);
    }
    arg.start = arg.walk_end;
  }
  return {};
}

Result<void> WalkWithEntries(int pagemap, std::span<const std::byte> range, const Visitor& visit) {
  const uint64_t first_page = reinterpret_cast<uint64_t>(range.data()) / kPageSize;
  const uint64_t pages = range.size() / kPageSize;
  std::array<uint64_t, 4096> entries;
  for (uint64_t page = 0; page < pages;) {
    const uint64_t wanted = std::min<uint64_t>(entries.size(), pages - page);
    const ssize_t bytes = ::pread(pagemap, entries.data(), wanted * sizeof(uint64_t),
                                  static_cast<off_t>((first_page + page) * sizeof(uint64_t)));
    if (bytes <= 0) return FailErrno("read", "/proc/self/pagemap");
    const uint64_t got = static_cast<uint64_t>(bytes) / sizeof(uint64_t);
    for (uint64_t i = 0; i < got; ++i) {
      if ((entries[i] & (kEntryPresent | kEntrySwapped)) == 0) continue;
      visit((page + i) * kPageSize, kPageSize, (entries[i] & kEntryFile) == 0);
    }
    page += got;
  }
  return {};
}

Result<void> Walk(std::span<const std::byte> range, const Visitor& visit) {
  UniqueFd pagemap(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap.IsValid()) return FailErrno("open", "/proc/self/pagemap");
  auto scanned = WalkWithScan(pagemap.Get(), range, visit);
  // Before 6.7 the file has no ioctls: ENOTTY, and nothing has been visited.
  if (!scanned && scanned.error().error_number == ENOTTY) {
    return WalkWithEntries(pagemap.Get(), range, visit);
  }
  return scanned;
}

}  // namespace

Result<std::vector<PageRun>> FindOwnedPages(std::span<const std::byte> range) {
  std::vector<PageRun> runs;
  VMFORK_CHECK(Walk(range, [&runs](uint64_t start, uint64_t size, bool owned) {
    if (owned) AppendRun(runs, {start, size});
  }));
  return runs;
}

Result<std::vector<PageRun>> FindPresentPages(std::span<const std::byte> range) {
  std::vector<PageRun> runs;
  VMFORK_CHECK(Walk(
      range, [&runs](uint64_t start, uint64_t size, bool) { AppendRun(runs, {start, size}); }));
  return runs;
}

Result<PageCounts> CountPages(std::span<const std::byte> range) {
  PageCounts counts;
  VMFORK_CHECK(Walk(range, [&counts](uint64_t, uint64_t size, bool owned) {
    (owned ? counts.owned_bytes : counts.shared_bytes) += size;
  }));
  return counts;
}

}  // namespace vmfork
