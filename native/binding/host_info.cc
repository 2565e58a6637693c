// The host's facts.
#include "binding/host_info.h"

#include "binding/js_error.h"
#include "binding/native_object.h"

namespace vmfork {

namespace {

Napi::Object HostInfoToJs(Napi::Env env, const HostInfo& host) {
  Napi::Object capabilities = Napi::Object::New(env);
  for (const auto& [name, value] : host.capabilities)
    capabilities.Set(name, Napi::Number::New(env, value));
  Napi::Array missing = Napi::Array::New(env);
  for (const std::string& name : host.missing) missing.Set(missing.Length(), name);
  Napi::Object object = Napi::Object::New(env);
  object.Set("kind", HostKindName(host.kind));
  object.Set("apiVersion", Napi::Number::New(env, host.api_version));
  object.Set("cpuVendor", host.cpu_vendor);
  object.Set("capabilities", capabilities);
  object.Set("missing", missing);
  object.Set("maxVcpus", Napi::Number::New(env, host.max_vcpus));
  return object;
}

}  // namespace

const char* HostKindName(HostKind kind) { return kind == HostKind::kPvm ? "pvm" : "hardware"; }

napi_value ProbeHostForJs(napi_env raw_env, napi_callback_info /*info*/) {
  return Guard(raw_env, [raw_env]() -> napi_value {
    const Napi::Env env(raw_env);
    const Kvm kvm = OrThrow(env, Kvm::Open());
    return HostInfoToJs(env, OrThrow(env, ProbeHost(kvm)));
  });
}

}  // namespace vmfork
