// File: an open regular file and what identifies its content cheaply.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

class File {
 public:
  // Read-only. Errors carry the path: `not_found` (the caller's code) when it cannot be opened,
  // kSystem.
  static Result<std::shared_ptr<const File>> OpenReadOnly(const std::string& path,
                                                          ErrorCode not_found);

  int Get() const { return fd_.Get(); }
  uint64_t Size() const { return size_; }
  // Changes when somebody writes or replaces the file.
  int64_t ModifiedNs() const { return modified_ns_; }
  // The whole content. Error: kSystem.
  Result<std::vector<std::byte>> ReadAll() const;

  File(UniqueFd fd, uint64_t size, int64_t modified_ns)
      : fd_(std::move(fd)), size_(size), modified_ns_(modified_ns) {}

 private:
  UniqueFd fd_;
  uint64_t size_;
  int64_t modified_ns_;
};

// Writes all of `bytes` at `offset`. Error: kSystem.
Result<void> WriteFully(int fd, std::span<const std::byte> bytes, uint64_t offset);

}  // namespace vmfork
