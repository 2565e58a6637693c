// NativeAddon.probeHost(): facts about the host, as a JavaScript object.
#pragma once

#include <napi.h>

#include "kvm/host.h"

namespace vmfork {

const char* HostKindName(HostKind kind);
napi_value ProbeHostForJs(napi_env env, napi_callback_info info);

}  // namespace vmfork
