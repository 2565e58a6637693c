// Error objects.
#include "binding/js_error.h"

namespace vmfork {

Napi::Error ToJsError(Napi::Env env, const Error& error) {
  const Napi::Error js_error = Napi::Error::New(env, error.ToString());
  Napi::Object object = js_error.Value();
  object.Set("code", std::string(ErrorCodeName(error.code)));
  object.Set("operation", error.operation);
  object.Set("errno", error.error_number == 0 ? env.Undefined()
                                              : Napi::Number::New(env, error.error_number));
  object.Set("detail", error.detail);
  return js_error;
}

Napi::Error OptionsError(Napi::Env env, const std::string& problem) {
  const Napi::Error js_error = Napi::TypeError::New(env, problem);
  js_error.Value().Set("code", "VMF_OPTIONS");
  return js_error;
}

}  // namespace vmfork
