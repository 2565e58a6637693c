// NativeEngine (src/native.ts).
#pragma once

#include <napi.h>

#include <memory>

#include "binding/engine_handle.h"
#include "binding/env_data.h"

namespace vmfork {

class EngineObject {
 public:
  static constexpr char kName[] = "NativeEngine";
  static constexpr napi_type_tag kTag = {0x54c8f7a21b9e4d30, 0x9d06e3b7a8f1425c};
  static constexpr auto kClass = &EnvData::engine_class;

  static void Define(Napi::Env env);
  // NativeAddon.createEngine(onEvent, options)
  static napi_value Create(napi_env env, napi_callback_info info);

  explicit EngineObject(std::shared_ptr<EngineLease> lease) : lease_(std::move(lease)) {}

 private:
  using Info = Napi::CallbackInfo;

  Napi::Value Boot(const Info& info);
  Napi::Value Load(const Info& info);
  Napi::Value Shells(const Info& info);
  Napi::Value LayerBytes(const Info& info);
  Napi::Value MakeVmAhead(const Info& info);
  Napi::Value Close(const Info& info);

  const std::shared_ptr<EngineLease> lease_;
};

}  // namespace vmfork
