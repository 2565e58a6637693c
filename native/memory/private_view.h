// PrivateView: a VM's RAM, a copy-on-write mapping of one image. The only thing that maps guest
// memory.
#pragma once

#include <memory>
#include <span>

#include "base/mapping.h"
#include "base/result.h"
#include "memory/image.h"
#include "memory/page_runs.h"

namespace vmfork {

class PrivateView {
 public:
  PrivateView() = default;
  // Address space for `size` bytes that shows nothing: an access faults. Errors: kTooManyMaps,
  // kSystem.
  static Result<PrivateView> Reserve(uint64_t size);
  // Reserve() and Show().
  static Result<PrivateView> Map(std::shared_ptr<const Image> image);

  // Lets go of all private pages and shows `image`, of the view's size: one mapping per extent,
  // MAP_PRIVATE; what no extent covers is anonymous memory. Kept out of children of fork(). A VM
  // that uses the memory must be paused. After an error the view counts as showing `image`, with
  // pages of before among those that the VM owns: right for an image of what it showed, else the
  // view is to be hidden.
  Result<void> Show(std::shared_ptr<const Image> image);
  // The same where `image` is what the view shows now, so that only what it has elsewhere has to be
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
  explicit PrivateView(Mapping mapping) : mapping_(std::move(mapping)) {}
  // Declared in this order: the image's files outlive the mapping.
  std::shared_ptr<const Image> image_;
  Mapping mapping_;
};

}  // namespace vmfork
