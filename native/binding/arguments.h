// Arguments from JavaScript, checked for what memory safety needs: types, ranges and lengths. Each
// is read once and copied, so that nothing JavaScript does later can change it. Failures are thrown
// as VMF_OPTIONS. What makes sense to a user is checked above, in src/options.ts.
#pragma once

#include <napi.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/page_runs.h"
#include "vm/engine.h"
#include "vm/options.h"
#include "vm/snapshot.h"

namespace vmfork {

struct Range {
  uint64_t least;
  uint64_t most;
};

uint64_t ToInteger(const Napi::Value& value, const char* name, Range range);
uint32_t ToPort(const Napi::Value& value);
bool ToBoolean(const Napi::Value& value, const char* name);
std::string ToText(const Napi::Value& value, const char* name, size_t most_bytes);
// Text without NUL bytes, no longer than the kernel takes.
std::string ToPath(const Napi::Value& value, const char* name);
std::vector<std::byte> ToBytes(const Napi::Value& value, const char* name, size_t most_bytes);
Napi::Function ToFunction(const Napi::Value& value, const char* name);

// Everything is optional, the object too.
EngineOptions ToEngineOptions(const Napi::Value& value);
BootOptions ToBootOptions(const Napi::Value& value);
// One by one, the first three: reading members of an object would cost a fork the more.
ForkOptions ToForkOptions(const Napi::CallbackInfo& info);
DiskOptions ToDiskOptions(const Napi::Value& value);
// Without the base, which is an object of the caller's.
SaveOptions ToSaveOptions(const Napi::Value& value);
LoadOptions ToLoadOptions(const Napi::Value& value);  // undefined: the defaults
// Pairs of offset and size.
std::vector<PageRun> ToPageRuns(const Napi::Value& value, const char* name);

}  // namespace vmfork
