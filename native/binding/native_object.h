// Native objects: JavaScript objects that own a C++ object of class T. Each class has a type tag,
// checked before every call, so that a method on another receiver is a TypeError; and only C++ can
// construct them.
//
// T has: kName, kTag (napi_type_tag), kClass (its FunctionReference in EnvData).
#pragma once

#include <napi.h>

#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "binding/env_data.h"

namespace vmfork {

// Runs `body`, which returns a napi_value; what it throws becomes JavaScript's exception.
template <typename Body>
napi_value Guard(napi_env env, Body body) noexcept {
  try {
    return body();
  } catch (const Napi::Error& error) {
    // Fails only while the environment ends, and then nobody is left to hear of it.
    napi_throw(env, error.Value());
  } catch (const std::bad_alloc&) {
    napi_throw_error(env, "VMF_NO_MEMORY", "the heap has none left");
  } catch (const std::exception& error) {
    napi_throw_error(env, "VMF_INTERNAL", error.what());
  }
  return nullptr;
}

// `what` names the value in the TypeError.
template <typename T>
T& UnwrapValue(const Napi::Value& value, const char* what) {
  const Napi::Env env = value.Env();
  bool is_ours = false;
  void* native = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(env, value, &T::kTag, &is_ours) != napi_ok ||
      !is_ours || napi_unwrap(env, value, &native) != napi_ok) {
    throw Napi::TypeError::New(env, std::string(what) + " is not a " + T::kName);
  }
  return *static_cast<T*>(native);
}

template <typename T>
T& Unwrap(const Napi::CallbackInfo& info) {
  return UnwrapValue<T>(info.This(), "the receiver");
}

template <typename T, auto Method>
napi_value CallMethod(napi_env env, napi_callback_info raw_info) {
  return Guard(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw_info);
    return (Unwrap<T>(info).*Method)(info);
  });
}

template <typename T, auto Method>
napi_property_descriptor MethodOf(const char* name) {
  return {name,    nullptr, CallMethod<T, Method>, nullptr,
          nullptr, nullptr, napi_default_method,   nullptr};
}

template <typename T, auto Getter>
napi_property_descriptor GetterOf(const char* name) {
  return {name,    nullptr, nullptr,         CallMethod<T, Getter>,
          nullptr, nullptr, napi_enumerable, nullptr};
}

// Only NewObject() may construct; JavaScript can reach the constructor through
// `object.constructor`.
template <typename T>
napi_value Construct(napi_env env, napi_callback_info raw_info) {
  return Guard(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw_info);
    if (!std::exchange(EnvData::Of(env).is_constructing, false))
      throw Napi::TypeError::New(env, std::string(T::kName) + " cannot be constructed");
    return info.This();
  });
}

template <typename T>
void DefineClass(Napi::Env env, std::initializer_list<napi_property_descriptor> properties) {
  napi_value constructor = nullptr;
  const std::vector<napi_property_descriptor> list(properties);
  NAPI_THROW_IF_FAILED_VOID(
      env, napi_define_class(env, T::kName, NAPI_AUTO_LENGTH, Construct<T>, nullptr, list.size(),
                             list.data(), &constructor));
  EnvData::Of(env).*T::kClass = Napi::Persistent(Napi::Function(env, constructor));
}

// A JavaScript object that owns `native`.
template <typename T>
Napi::Object NewObject(Napi::Env env, std::unique_ptr<T> native) {
  EnvData& data = EnvData::Of(env);
  data.is_constructing = true;
  Napi::Object object = (data.*T::kClass).New({});
  const auto finalize = [](napi_env, void* native, void*) { delete static_cast<T*>(native); };
  NAPI_THROW_IF_FAILED(env, napi_wrap(env, object, native.get(), finalize, nullptr, nullptr),
                       object);
  native.release();
  NAPI_THROW_IF_FAILED(env, napi_type_tag_object(env, object, &T::kTag), object);
  return object;
}

}  // namespace vmfork
