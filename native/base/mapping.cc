// mmap() and munmap().
#include "base/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>

namespace vmfork {

Result<Mapping> Mapping::Map(size_t size, int protection, int flags, int fd, uint64_t offset) {
  void* data = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  // mmap(2) gives ENOMEM for want of memory and for too many mappings alike; with overcommitted
  // memory it is all but always the latter.
  if (data == MAP_FAILED && errno == ENOMEM) {
    return Fail(ErrorCode::kTooManyMaps, "mmap", std::to_string(size) + " bytes", ENOMEM);
  }
  if (data == MAP_FAILED) return FailErrno("mmap", std::to_string(size) + " bytes");
  return Mapping(static_cast<std::byte*>(data), size);
}

void Mapping::Reset() {
  if (data_ != nullptr) ::munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace vmfork
