// The methods of NativeEngine.
#include "binding/engine_object.h"

#include <utility>

#include "binding/arguments.h"
#include "binding/native_object.h"
#include "binding/promise_job.h"
#include "binding/snapshot_object.h"
#include "binding/vm_object.h"

namespace vmfork {

void EngineObject::Define(Napi::Env env) {
  DefineClass<EngineObject>(env, {MethodOf<EngineObject, &EngineObject::Boot>("boot"),
                                  MethodOf<EngineObject, &EngineObject::Load>("load"),
                                  MethodOf<EngineObject, &EngineObject::Shells>("shells"),
                                  MethodOf<EngineObject, &EngineObject::LayerBytes>("layerBytes"),
                                  MethodOf<EngineObject, &EngineObject::MakeVmAhead>("makeVmAhead"),
                                  MethodOf<EngineObject, &EngineObject::Close>("close")});
}

napi_value EngineObject::Create(napi_env raw_env, napi_callback_info raw_info) {
  return Guard(raw_env, [&]() -> napi_value {
    const Napi::CallbackInfo info(raw_env, raw_info);
    const Napi::Env env = info.Env();
    const Napi::Function on_event = ToFunction(info[0], "onEvent");
    auto engine = OrThrow(env, Engine::Create(ToEngineOptions(info[1])));
    auto handle = std::make_shared<EngineHandle>(std::move(engine), EventPump::Open(env, on_event));
    EnvData::Of(env).engines.insert(handle);
    return NewObject(env, std::make_unique<EngineObject>(std::make_shared<EngineLease>(handle)));
  });
}

Napi::Value EngineObject::Boot(const Info& info) {
  auto work = [engine = lease_->Handle(), options = ToBootOptions(info[0])] {
    return engine->Boot(options);
  };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work),
                [lease = lease_](Napi::Env env, std::shared_ptr<VmRecord>& record) {
                  return VmObject::Make(env, lease, std::move(record));
                });
}

Napi::Value EngineObject::Load(const Info& info) {
  auto work = [engine = lease_->Handle(), directory = ToPath(info[0], "directory"),
               options = ToLoadOptions(info[1])] { return engine->Load(directory, options); };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work),
                [lease = lease_](Napi::Env env, std::shared_ptr<Snapshot>& snapshot) {
                  return SnapshotObject::Make(env, lease, std::move(snapshot));
                });
}

Napi::Value EngineObject::Shells(const Info& info) {
  const ShellPool::Counts counts = OrThrow(info.Env(), lease_->Handle()->CountShells());
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("ready", static_cast<double>(counts.ready));
  object.Set("built", static_cast<double>(counts.built));
  object.Set("reused", static_cast<double>(counts.reused));
  return object;
}

Napi::Value EngineObject::LayerBytes(const Info& info) {
  const uint64_t bytes = OrThrow(info.Env(), lease_->Handle()->CloneLayerBytes());
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

Napi::Value EngineObject::MakeVmAhead(const Info& info) {
  VmObject::MakeAhead(info.Env());
  return info.Env().Undefined();
}

Napi::Value EngineObject::Close(const Info& info) {
  return lease_->Handle()->Close(info.This().As<Napi::Object>());
}

}  // namespace vmfork
