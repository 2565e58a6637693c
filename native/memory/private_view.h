// PrivateView: a VM's RAM, a copy-on-write mapping of one image. The only thing that maps guest
// memory.
#pragma once

#include <memory>
#include <span>

#include "base/mapping.h"
#include "base/result.h"
#include "memory/image.h"
#include "memory/page_runs.h"
#include "memory/single_page_faults.h"

namespace vmfork {

class PrivateView {
 public:
  PrivateView() = default;
  // Address space for `size` bytes that shows nothing: an access faults. `faults`, which must
  // outlive the view, may be null. Errors: kTooManyMaps, kSystem.
  static Result<PrivateView> Reserve(uint64_t size, const SinglePageFaults* faults = nullptr);
  // Reserve() and Show().
  static Result<PrivateView> Map(std::shared_ptr<const Image> image,
                                 const SinglePageFaults* faults = nullptr);

  // Lets go of all private pages and shows `image`, of the view's size: one mapping per extent,
  // MAP_PRIVATE; what no extent covers is anonymous memory. Kept out of children of fork(). A VM
  // that uses the memory must be paused. After an error the view counts as showing nothing, and is
  // to be hidden.
  Result<void> Show(std::shared_ptr<const Image> image);
  // Show() of the image that it shows already, without a new mapping: that would wait for whatever
  // walks through the mappings of the image's files, or of the process. Errors: kSystem.
  Result<void> ShowAgain();
  // Show() where `image` is what the view shows now, so that only what it has elsewhere has to be
  // mapped. Pages that the VM owns where nothing changes stay. After an error the content is right.
  Result<void> GoOnOver(std::shared_ptr<const Image> image);
  // Has these pages in the page tables now, so that the first access to each is none that has to
  // wait. Only that: it fails silently where the kernel cannot (before Linux 5.14).
  void MapAhead(std::span<const PageRun> runs);
  // Makes the view's own copies of these pages now, for the first write. Fails as silently.
  void CopyAhead(std::span<const PageRun> runs);
  // Lets go of all pages and of the image.
  Result<void> Hide();

  std::byte* Data() const { return mapping_.Data(); }
  uint64_t Size() const { return mapping_.Size(); }
  const std::shared_ptr<const Image>& GetImage() const { return image_; }

 private:
  PrivateView(Mapping mapping, const SinglePageFaults* faults)
      : mapping_(std::move(mapping)), faults_(faults) {}
  Result<void> Settle();  // what has been mapped

  // Declared in this order: the image's files outlive the mapping.
  std::shared_ptr<const Image> image_;
  Mapping mapping_;
  const SinglePageFaults* faults_ = nullptr;
};

}  // namespace vmfork
