// Mapping extents.
#include "memory/private_view.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <tuple>
#include <utility>

namespace vmfork {

namespace {
Result<void> MapOver(std::byte* address, uint64_t size, int fd, uint64_t file_offset) {
  int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  if (fd < 0) flags |= MAP_ANONYMOUS;
  if (::mmap(address, size, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(file_offset)) ==
      MAP_FAILED) {
    if (errno == ENOMEM)
      return Fail(ErrorCode::kTooManyMaps, "mmap", std::to_string(size) + " bytes", ENOMEM);
    return FailErrno("mmap", std::to_string(size) + " bytes of guest memory");
  }
  return {};
}

Result<void> MapExtent(std::byte* base, const Extent& extent) {
  return MapOver(base + extent.start, extent.size, extent.file->Get(), extent.file_offset);
}

Result<void> MapImage(std::byte* base, const Image& image) {
  uint64_t position = 0;
  for (const Extent& extent : image.Extents()) {
    if (extent.start > position)
      VMFORK_CHECK(MapOver(base + position, extent.start - position, -1, 0));
    VMFORK_CHECK(MapExtent(base, extent));
    position = extent.start + extent.size;
  }
  if (position < image.Size())
    VMFORK_CHECK(MapOver(base + position, image.Size() - position, -1, 0));
  return {};
}

// madvise() of all runs, where the kernel can with the process's memory lock taken once: a process
// full of guests may have to wait for it each time.
void AdviseEach(std::byte* base, std::span<const PageRun> runs, int advice) {
  constexpr long kThisProcess = -10001;  // PIDFD_SELF_THREAD_GROUP in <linux/pidfd.h>, since 6.14
  std::array<iovec, 256> vectors;
  while (!runs.empty()) {
    const auto some = runs.first(std::min(runs.size(), vectors.size()));
    uint64_t bytes = 0;
    for (size_t i = 0; i < some.size(); ++i) {
      vectors[i] = {base + some[i].start, some[i].size};
      bytes += some[i].size;
    }
    const long done =
        ::syscall(SYS_process_madvise, kThisProcess, vectors.data(), some.size(), advice, 0);
    if (done < 0 || static_cast<uint64_t>(done) != bytes)
      for (const PageRun& run : some) std::ignore = ::madvise(base + run.start, run.size, advice);
    runs = runs.subspan(some.size());
  }
}

// Whether a view of `image` shows all of `extent` already.
bool Shows(const Image& image, const Extent& extent) {
  const auto is_part = [&extent](const Extent& whole) {
    return whole.file == extent.file && whole.start <= extent.start &&
           extent.start + extent.size <= whole.start + whole.size &&
           extent.file_offset - whole.file_offset == extent.start - whole.start;
  };
  return std::ranges::any_of(image.Extents(), is_part);
}
}  // namespace

Result<PrivateView> PrivateView::Reserve(uint64_t size, const SinglePageFaults* faults) {
  VMFORK_TRY(mapping,
             Mapping::Map(size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return PrivateView(std::move(mapping), faults);
}

Result<PrivateView> PrivateView::Map(std::shared_ptr<const Image> image,
                                     const SinglePageFaults* faults) {
  VMFORK_TRY(view, Reserve(image->Size(), faults));
  VMFORK_CHECK(view.Show(std::move(image)));
  return view;
}

Result<void> PrivateView::Show(std::shared_ptr<const Image> image) {
  image_.reset();
  VMFORK_CHECK(MapImage(mapping_.Data(), *image));
  VMFORK_CHECK(Settle());
  image_ = std::move(image);
  return {};
}

Result<void> PrivateView::Settle() {
  if (faults_ != nullptr) faults_->Apply(mapping_.Data(), mapping_.Size());
  // Node's child_process.spawn() fork()s: without this the page tables of every VM would be copied
  // each time, and a child that lives on would hold our guests' memory.
  if (::madvise(mapping_.Data(), mapping_.Size(), MADV_DONTFORK) != 0)
    return FailErrno("madvise", "MADV_DONTFORK");
  return {};
}

Result<void> PrivateView::ShowAgain() {
  if (::madvise(mapping_.Data(), mapping_.Size(), MADV_DONTNEED) != 0)
    return FailErrno("madvise", "MADV_DONTNEED of guest memory");
  return {};
}

Result<void> PrivateView::GoOnOver(std::shared_ptr<const Image> image) {
  const std::shared_ptr<const Image> before = std::exchange(image_, std::move(image));
  Result<void> mapped;
  for (const Extent& extent : image_->Extents())
    if (mapped && !Shows(*before, extent)) mapped = MapExtent(mapping_.Data(), extent);
  // After a failure as well: the VM goes on with what is mapped.
  const auto settled = Settle();
  return mapped ? settled : mapped;
}

void PrivateView::MapAhead(std::span<const PageRun> runs) {
  AdviseEach(mapping_.Data(), runs, MADV_POPULATE_READ);
}

void PrivateView::CopyAhead(std::span<const PageRun> runs) {
  AdviseEach(mapping_.Data(), runs, MADV_POPULATE_WRITE);
}

Result<void> PrivateView::Hide() {
  constexpr int kFlags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE;
  if (::mmap(mapping_.Data(), mapping_.Size(), PROT_NONE, kFlags, -1, 0) == MAP_FAILED)
    return FailErrno("mmap", "to give guest memory back");
  image_.reset();
  return {};
}

}  // namespace vmfork
