// The addon's export table, and nothing else.
#include <napi.h>

#include <iterator>

#include "binding/engine_object.h"
#include "binding/env_data.h"
#include "binding/host_info.h"
#include "binding/native_object.h"
#include "binding/snapshot_object.h"
#include "binding/vm_object.h"

namespace vmfork {
namespace {

napi_value Version(napi_env env, napi_callback_info /*info*/) {
  return Guard(env, [env]() -> napi_value { return Napi::String::New(env, VMFORK_VERSION); });
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  EnvData::Install(env);
  EngineObject::Define(env);
  VmObject::Define(env);
  SnapshotObject::Define(env);
  const napi_property_descriptor functions[] = {
      {"probeHost", nullptr, ProbeHostForJs, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"createEngine", nullptr, EngineObject::Create, nullptr, nullptr, nullptr, napi_enumerable,
       nullptr},
      {"version", nullptr, Version, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  NAPI_THROW_IF_FAILED(env, napi_define_properties(env, exports, std::size(functions), functions),
                       exports);
  return exports;
}

}  // namespace
}  // namespace vmfork

using vmfork::Init;
NODE_API_MODULE(vmfork, Init)
