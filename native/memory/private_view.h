// PrivateView: a VM's RAM, a copy-on-write mapping of one image. The only thing that maps guest
// memory.
#pragma once

#include <memory>

#include "base/mapping.h"
#include "base/result.h"
#include "memory/image.h"

namespace vmfork {

class PrivateView {
 public:
  PrivateView() = default;
  // One mapping per extent, MAP_PRIVATE; what no extent covers is anonymous memory. Kept out of
  // children of fork().
  static Result<PrivateView> Map(std::shared_ptr<const Image> image);

  // Lets go of all private pages and shows `image`, of the same size, at the same address. The VM
  // must be paused.
  Result<void> Remap(std::shared_ptr<const Image> image);

  std::byte* Data() const { return mapping_.Data(); }
  uint64_t Size() const { return mapping_.Size(); }
  const std::shared_ptr<const Image>& GetImage() const { return image_; }

 private:
  PrivateView(Mapping mapping, std::shared_ptr<const Image> image)
      : image_(std::move(image)), mapping_(std::move(mapping)) {}
  // Declared in this order: the image's files outlive the mapping.
  std::shared_ptr<const Image> image_;
  Mapping mapping_;
};

}  // namespace vmfork
