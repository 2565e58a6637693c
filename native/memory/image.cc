// Extent lists.
#include "memory/image.h"

#include <algorithm>

#include "memory/gpa.h"

namespace vmfork {

namespace {
bool Continues(const Extent& first, const Extent& next) {
  return first.file == next.file && first.start + first.size == next.start &&
         first.file_offset + first.size == next.file_offset;
}

void Append(std::vector<Extent>& extents, Extent extent) {
  if (extent.size == 0) return;
  if (!extents.empty() && Continues(extents.back(), extent)) {
    extents.back().size += extent.size;
  } else {
    extents.push_back(std::move(extent));
  }
}

// The part of `extent` in [start, end).
Extent Clip(const Extent& extent, uint64_t start, uint64_t end) {
  const uint64_t from = std::max(extent.start, start);
  const uint64_t to = std::min(extent.start + extent.size, end);
  if (from >= to) return {};
  return {from, to - from, extent.file, extent.file_offset + (from - extent.start)};
}
}  // namespace

std::shared_ptr<const Image> Image::Zero(uint64_t size) {
  return std::shared_ptr<const Image>(new Image(size, {}));
}

Result<std::shared_ptr<const Image>> Image::Make(uint64_t size, std::vector<Extent> extents) {
  uint64_t end = 0;
  for (const Extent& extent : extents) {
    const bool aligned = extent.start % kPageSize == 0 && extent.size % kPageSize == 0 &&
                         extent.file_offset % kPageSize == 0;
    const bool fits =
        extent.start >= end && extent.start <= size && extent.size <= size - extent.start;
    if (!aligned || !fits || extent.size == 0) {
      return Fail(ErrorCode::kSnapshotInvalid, "image",
                  "bad extent at " + std::to_string(extent.start));
    }
    end = extent.start + extent.size;
  }
  return std::shared_ptr<const Image>(new Image(size, std::move(extents)));
}

Result<std::shared_ptr<const Image>> Image::Overlay(const Image& parent,
                                                    std::vector<Extent> layer) {
  std::vector<Extent> merged;
  size_t below = 0;  // the parent's extents that may still reach past `position`
  uint64_t position = 0;
  auto append_parent_up_to = [&](uint64_t end) {
    while (below < parent.extents_.size() && parent.extents_[below].start < end) {
      const Extent& extent = parent.extents_[below];
      Append(merged, Clip(extent, position, end));
      if (extent.start + extent.size > end) break;
      ++below;
    }
    position = end;
  };
  for (Extent& extent : layer) {
    const uint64_t end = extent.start + extent.size;
    append_parent_up_to(extent.start);
    while (below < parent.extents_.size() &&
           parent.extents_[below].start + parent.extents_[below].size <= end) {
      ++below;
    }
    position = end;
    Append(merged, std::move(extent));
  }
  append_parent_up_to(parent.size_);
  return Make(parent.size_, std::move(merged));
}

}  // namespace vmfork
