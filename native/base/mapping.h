// Mapping: the only owner of an mmap()ed range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/result.h"

namespace vmfork {

class Mapping {
 public:
  Mapping() = default;
  Mapping(std::byte* data, size_t size) : data_(data), size_(size) {}
  ~Mapping() { Reset(); }
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // mmap() of `size` bytes; `fd` may be -1 with MAP_ANONYMOUS. Errors: kTooManyMaps, kSystem.
  static Result<Mapping> Map(size_t size, int protection, int flags, int fd, uint64_t offset);

  std::byte* Data() const { return data_; }
  size_t Size() const { return size_; }
  void Reset();

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace vmfork
