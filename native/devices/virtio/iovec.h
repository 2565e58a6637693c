// Walking lists of iovecs that point into guest memory: bounded copies and cuts.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace vmfork {

// Copies the first to.size() bytes of the list; false when it holds fewer.
inline bool CopyFromIovecs(std::span<const iovec> from, std::span<std::byte> to) {
  size_t done = 0;
  for (const iovec& part : from) {
    const size_t size = std::min(part.iov_len, to.size() - done);
    if (size == 0) break;
    std::memcpy(to.data() + done, part.iov_base, size);
    done += size;
  }
  return done == to.size();
}

// Copies `from` to the start of the list; false when it has no room for all of it.
inline bool CopyToIovecs(std::span<const iovec> to, std::span<const std::byte> from) {
  size_t done = 0;
  for (const iovec& part : to) {
    const size_t size = std::min(part.iov_len, from.size() - done);
    if (size == 0) break;
    std::memcpy(part.iov_base, from.data() + done, size);
    done += size;
  }
  return done == from.size();
}

// Makes `out` the part of `list` that starts at `skip` and has at most `limit` bytes; returns its
// size. `out` is reused by callers so that packets cause no allocation.
inline size_t CutIovecs(std::span<const iovec> list, size_t skip, size_t limit,
                        std::vector<iovec>& out) {
  out.clear();
  size_t total = 0;
  for (const iovec& part : list) {
    const size_t skipped = std::min(skip, part.iov_len);
    skip -= skipped;
    const size_t size = std::min(part.iov_len - skipped, limit - total);
    if (size == 0) continue;
    out.push_back({static_cast<std::byte*>(part.iov_base) + skipped, size});
    total += size;
  }
  return total;
}

}  // namespace vmfork
