// The heap's own failure as an error like any other. The core throws nothing itself; operator new
// does, and what owns anything gives it back on the way out. It is caught where a verb begins, and
// inside of one only where something else has to be set right before others may go on.
#pragma once

#include <cerrno>
#include <cstddef>
#include <new>
#include <string>
#include <type_traits>

#include "base/result.h"

namespace vmfork {

// Names of operations that a string holds without memory of its own.
inline constexpr size_t kMostNameBytes = 16;

template <size_t kBytes>
std::unexpected<Error> OutOfMemory(const char (&operation)[kBytes]) {
  static_assert(kBytes <= kMostNameBytes, "there may be no memory for its name");
  return Fail(ErrorCode::kNoMemory, operation, {}, ENOMEM);
}

// What `step`, which returns a Result, returns; kNoMemory when the heap had none for it.
template <size_t kBytes, typename Step>
std::invoke_result_t<Step&> CatchNoMemory(const char (&operation)[kBytes], Step step) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return OutOfMemory(operation);
  }
}

// For what may be left out: false when the heap had no memory for it.
template <typename Step>
bool TryWithMemory(Step step) noexcept {
  try {
    step();
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

}  // namespace vmfork
