// Gpa: a guest-physical address. A type of its own, so that it is never mistaken for a host
// pointer, an offset or a size.
#pragma once

#include <compare>
#include <cstdint>

namespace vmfork {

struct Gpa {
  uint64_t value = 0;
  auto operator<=>(const Gpa&) const = default;
};

inline constexpr uint64_t kPageSize = 4096;

}  // namespace vmfork
