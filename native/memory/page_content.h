// What pages hold: most of a guest's memory is zero, and a file's holes are the way to keep that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"

namespace vmfork {

// Whole pages and where they are.
using PageVisitor = std::function<Result<void>(uint64_t offset, std::span<const std::byte> pages)>;

// Calls `visit` for each run of pages of `bytes` that are not all zero, in order; the first of
// `bytes` is at `offset`. Ends at the first error.
Result<void> ForEachNonZeroRun(uint64_t offset, std::span<const std::byte> bytes,
                               const PageVisitor& visit);

}  // namespace vmfork
