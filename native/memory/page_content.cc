// Looking for zeros.
#include "memory/page_content.h"

#include <cstring>

#include "memory/gpa.h"

namespace vmfork {

namespace {
bool IsZero(std::span<const std::byte> page) {
  return page.front() == std::byte{0} &&
         std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}
}  // namespace

Result<void> ForEachNonZeroRun(uint64_t offset, std::span<const std::byte> bytes,
                               const PageVisitor& visit) {
  for (uint64_t position = 0; position < bytes.size();) {
    uint64_t end = position;
    while (end < bytes.size() && !IsZero(bytes.subspan(end, kPageSize))) end += kPageSize;
    if (end > position)
      VMFORK_CHECK(visit(offset + position, bytes.subspan(position, end - position)));
    position = end + kPageSize;  // the page at `end` is zero
  }
  return {};
}

}  // namespace vmfork
