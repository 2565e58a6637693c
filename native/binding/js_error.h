// Errors on their way to JavaScript: what the core reports, and arguments that may not pass the
// border.
#pragma once

#include <napi.h>

#include <string>

#include "base/result.h"

namespace vmfork {

// An Error whose message is Error::ToString(), with own properties code ('VMF_…'), operation, errno
// (a number, or undefined) and detail.
Napi::Error ToJsError(Napi::Env env, const Error& error);

// A TypeError with code VMF_OPTIONS. `problem` is a sentence that names the argument.
Napi::Error OptionsError(Napi::Env env, const std::string& problem);

// The value, or its error thrown into JavaScript.
template <typename T>
T OrThrow(Napi::Env env, Result<T> result) {
  if (!result) throw ToJsError(env, result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace vmfork
