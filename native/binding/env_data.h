// EnvData: what one environment (the main thread's or a worker's) has of this addon. There are no
// globals.
#pragma once

#include <napi.h>

#include <memory>
#include <unordered_set>

#include "binding/engine_handle.h"

namespace vmfork {

class VmObject;

struct EnvData {
  // Installs it, and a hook that takes down every engine before the environment ends.
  static EnvData& Install(Napi::Env env);
  static EnvData& Of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }

  explicit EnvData(Napi::Env env) : env(env) {}
  void CloseEngines();

  Napi::Env env;
  std::unordered_set<std::shared_ptr<EngineHandle>> engines;  // not yet down
  bool is_constructing = false;  // true only while native_object.h makes an object
  Napi::FunctionReference engine_class;
  Napi::FunctionReference vm_class;
  Napi::FunctionReference snapshot_class;
  struct {
    Napi::ObjectReference object;
    VmObject* native = nullptr;
  } spare_vm;  // made ahead, stands for no VM yet; null: there is none
};

}  // namespace vmfork
