// Image: immutable guest memory, as a sorted list of extents over sealed memfds or read-only files.
//
// Positions are RAM offsets: 0 … Size(), without the hole that guest-physical space has below 4
// GiB. What no extent covers is zero. Images are only made here; a VM's RAM is always a private
// view (private_view.h) of one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "memory/gpa.h"

namespace vmfork {

// A run of RAM and where its bytes are. All numbers are multiples of the page size.
struct Extent {
  uint64_t start = 0;
  uint64_t size = 0;
  std::shared_ptr<const UniqueFd> file;  // nobody writes it while this exists
  uint64_t file_offset = 0;
};

// Every extent costs each clone a mapping (2–9 µs and a VMA): between two parts of a layer, so much
// that need not be in it is cheaper to copy than to map around.
inline constexpr uint64_t kSmallGapBytes = 64 * kPageSize;

class Image {
 public:
  // All zero: what a VM boots over.
  static std::shared_ptr<const Image> Zero(uint64_t size);
  // Checks that extents are sorted, aligned, inside `size` and do not overlap. Error:
  // kSnapshotInvalid.
  static Result<std::shared_ptr<const Image>> Make(uint64_t size, std::vector<Extent> extents);
  // `parent` with the extents of a newer layer over it.
  static Result<std::shared_ptr<const Image>> Overlay(const Image& parent,
                                                      std::vector<Extent> layer);

  uint64_t Size() const { return size_; }
  std::span<const Extent> Extents() const { return extents_; }

 private:
  Image(uint64_t size, std::vector<Extent> extents) : size_(size), extents_(std::move(extents)) {}
  uint64_t size_;
  std::vector<Extent> extents_;
};

}  // namespace vmfork
