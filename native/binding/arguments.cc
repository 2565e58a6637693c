// Reading arguments.
#include "binding/arguments.h"

#include <climits>
#include <cmath>
#include <cstring>

#include "binding/js_error.h"

namespace vmfork {

namespace {

constexpr Range kAnyUint32 = {0, UINT32_MAX};
constexpr Range kCids = {3, UINT32_MAX - 1};  // virtio 1.2, 5.10.4: 0-2 and all ones are reserved
constexpr Range kConsoleBytes = {0, 16u << 20};
constexpr Range kMemoryBytes = {0, uint64_t{1} << 40};
constexpr Range kVcpus = {1, 8};
constexpr uint32_t kMostDisks = 4;
constexpr Range kNice = {0, 19};
constexpr Range kShells = {0, 1 << 16};
constexpr Range kScratchBytes = {0, uint64_t{1} << 44};
constexpr size_t kMostSerialBytes = 64;
constexpr size_t kMostCmdlineBytes = 64u << 10;
constexpr size_t kMostMetadataBytes = 1u << 20;
constexpr size_t kMostKeyBytes = 4096;
constexpr size_t kMostPageRuns = 1u << 20;
// More than a RESUME frame and a fork point's payload together.
constexpr size_t kMostControlBytes = 64u << 10;

Napi::Object ToObject(const Napi::Value& value, const char* name) {
  if (!value.IsObject()) throw OptionsError(value.Env(), std::string(name) + " must be an object");
  return value.As<Napi::Object>();
}

std::vector<std::string> ToPaths(const Napi::Value& value, const char* name) {
  if (!value.IsArray()) throw OptionsError(value.Env(), std::string(name) + " must be an array");
  const auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  if (length > kMostDisks) {
    throw OptionsError(value.Env(), std::string(name) + " must have at most " +
                                        std::to_string(kMostDisks) + " elements");
  }
  std::vector<std::string> paths;
  for (uint32_t i = 0; i < length; ++i) paths.push_back(ToPath(array.Get(i), name));
  return paths;
}

BlockMedium::Kind ToDiskKind(const Napi::Value& value) {
  constexpr size_t kMostKindBytes = 16;
  const std::string kind = ToText(value, "kind", kMostKindBytes);
  if (kind == "image") return BlockMedium::Kind::kImage;
  if (kind == "file") return BlockMedium::Kind::kFile;
  if (kind == "scratch") return BlockMedium::Kind::kScratch;
  throw OptionsError(value.Env(), "kind must be 'image', 'file' or 'scratch'");
}

}  // namespace

uint64_t ToInteger(const Napi::Value& value, const char* name, Range range) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  // Compared as doubles: every bound used is below 2^53, and NaN fails the first comparison.
  if (!(number >= static_cast<double>(range.least) && number <= static_cast<double>(range.most)) ||
      number != std::floor(number)) {
    throw OptionsError(value.Env(), std::string(name) + " must be an integer from " +
                                        std::to_string(range.least) + " to " +
                                        std::to_string(range.most));
  }
  return static_cast<uint64_t>(number);
}

uint32_t ToPort(const Napi::Value& value) {
  return static_cast<uint32_t>(ToInteger(value, "port", kAnyUint32));
}

bool ToBoolean(const Napi::Value& value, const char* name) {
  if (!value.IsBoolean()) throw OptionsError(value.Env(), std::string(name) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string ToText(const Napi::Value& value, const char* name, size_t most_bytes) {
  if (!value.IsString()) throw OptionsError(value.Env(), std::string(name) + " must be a string");
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.size() > most_bytes) {
    throw OptionsError(value.Env(), std::string(name) + " must have at most " +
                                        std::to_string(most_bytes) + " bytes of UTF-8");
  }
  return text;
}

std::string ToPath(const Napi::Value& value, const char* name) {
  std::string path = ToText(value, name, PATH_MAX - 1);
  if (path.find('\0') != std::string::npos)
    throw OptionsError(value.Env(), std::string(name) + " must not contain NUL");
  return path;
}

std::vector<std::byte> ToBytes(const Napi::Value& value, const char* name, size_t most_bytes) {
  napi_typedarray_type type = napi_uint8_array;
  size_t size = 0;
  void* data = nullptr;
  // Fails for what is no typed array. One call: each of Napi::Uint8Array's methods makes its own.
  if (napi_get_typedarray_info(value.Env(), value, &type, &size, &data, nullptr, nullptr) !=
          napi_ok ||
      type != napi_uint8_array) {
    throw OptionsError(value.Env(), std::string(name) + " must be a Uint8Array");
  }
  if (size > most_bytes) {
    throw OptionsError(value.Env(), std::string(name) + " must have at most " +
                                        std::to_string(most_bytes) + " bytes");
  }
  std::vector<std::byte> bytes(size);
  if (size != 0) std::memcpy(bytes.data(), data, size);
  return bytes;
}

Napi::Function ToFunction(const Napi::Value& value, const char* name) {
  if (!value.IsFunction())
    throw OptionsError(value.Env(), std::string(name) + " must be a function");
  return value.As<Napi::Function>();
}

EngineOptions ToEngineOptions(const Napi::Value& value) {
  EngineOptions options;
  if (value.IsUndefined()) return options;
  const Napi::Object object = ToObject(value, "options");
  const Napi::Value directory = object.Get("scratchDirectory");
  if (!directory.IsUndefined()) options.scratch_directory = ToPath(directory, "scratchDirectory");
  const Napi::Value ready = object.Get("shellsReady"), kept = object.Get("shellsKept");
  if (!ready.IsUndefined()) options.shells.ready = ToInteger(ready, "shellsReady", kShells);
  if (!kept.IsUndefined()) options.shells.kept = ToInteger(kept, "shellsKept", kShells);
  const Napi::Value nice = object.Get("vcpuNice");
  if (!nice.IsUndefined()) options.vcpu_nice = static_cast<int>(ToInteger(nice, "vcpuNice", kNice));
  return options;
}

BootOptions ToBootOptions(const Napi::Value& value) {
  const Napi::Object object = ToObject(value, "options");
  BootOptions options;
  options.kernel_path = ToPath(object.Get("kernelPath"), "kernelPath");
  const Napi::Value initrd = object.Get("initrdPath");
  if (!initrd.IsNull()) options.initrd_path = ToPath(initrd, "initrdPath");
  options.disk_paths = ToPaths(object.Get("diskPaths"), "diskPaths");
  options.cmdline = ToText(object.Get("cmdline"), "cmdline", kMostCmdlineBytes);
  options.memory_bytes = ToInteger(object.Get("memoryBytes"), "memoryBytes", kMemoryBytes);
  options.vcpus = static_cast<uint32_t>(ToInteger(object.Get("vcpus"), "vcpus", kVcpus));
  options.cid = static_cast<uint32_t>(ToInteger(object.Get("cid"), "cid", kCids));
  options.console_bytes = ToInteger(object.Get("consoleBytes"), "consoleBytes", kConsoleBytes);
  return options;
}

ForkOptions ToForkOptions(const Napi::CallbackInfo& info) {
  return {.cid = static_cast<uint32_t>(ToInteger(info[0], "cid", kCids)),
          .control_bytes = ToBytes(info[1], "controlBytes", kMostControlBytes),
          .console_bytes = ToInteger(info[2], "consoleBytes", kConsoleBytes)};
}

DiskOptions ToDiskOptions(const Napi::Value& value) {
  const Napi::Object object = ToObject(value, "options");
  DiskOptions options;
  const Napi::Value path = object.Get("path");
  if (!path.IsNull()) options.path = ToPath(path, "path");
  options.kind = ToDiskKind(object.Get("kind"));
  options.scratch_bytes = ToInteger(object.Get("scratchBytes"), "scratchBytes", kScratchBytes);
  options.serial = ToText(object.Get("serial"), "serial", kMostSerialBytes);
  if (options.path.empty() && (options.scratch_bytes == 0 || options.scratch_bytes % 512 != 0))
    throw OptionsError(value.Env(), "scratchBytes must be a multiple of 512");
  return options;
}

SaveOptions ToSaveOptions(const Napi::Value& value) {
  const Napi::Object object = ToObject(value, "options");
  SaveOptions options;
  options.metadata = ToText(object.Get("metadata"), "metadata", kMostMetadataBytes);
  const Napi::Value directory = object.Get("baseDirectory");
  if (!directory.IsNull()) options.base_directory = ToPath(directory, "baseDirectory");
  const Napi::Value key = object.Get("key");
  if (!key.IsNull()) options.key = ToBytes(key, "key", kMostKeyBytes);
  return options;
}

LoadOptions ToLoadOptions(const Napi::Value& value) {
  LoadOptions options;
  if (value.IsUndefined()) return options;
  const Napi::Object object = ToObject(value, "options");
  const Napi::Value key = object.Get("key");
  if (!key.IsNull()) options.key = ToBytes(key, "key", kMostKeyBytes);
  options.prefetch = ToBoolean(object.Get("prefetch"), "prefetch");
  return options;
}

std::vector<PageRun> ToPageRuns(const Napi::Value& value, const char* name) {
  if (!value.IsTypedArray() ||
      value.As<Napi::TypedArray>().TypedArrayType() != napi_biguint64_array) {
    throw OptionsError(value.Env(), std::string(name) + " must be a BigUint64Array");
  }
  const auto array = value.As<Napi::TypedArrayOf<uint64_t>>();
  const size_t length = array.ElementLength();
  if (length % 2 != 0 || length / 2 > kMostPageRuns)
    throw OptionsError(value.Env(), std::string(name) + " must hold pairs, not too many");
  std::vector<PageRun> runs(length / 2);
  for (size_t i = 0; i < runs.size(); ++i) runs[i] = {array[2 * i], array[2 * i + 1]};
  return runs;
}

}  // namespace vmfork
