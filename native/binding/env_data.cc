// Start and end of an environment.
#include "binding/env_data.h"

#include <utility>

namespace vmfork {

EnvData& EnvData::Install(Napi::Env env) {
  auto* data = new EnvData(env);
  env.SetInstanceData(data);  // deletes it after the hooks have run
  env.AddCleanupHook([](EnvData* data) { data->CloseEngines(); }, data);
  return *data;
}

void EnvData::CloseEngines() {
  const auto closing = std::exchange(engines, {});
  // All at once: each waits for its VMs.
  for (const auto& engine : closing) static_cast<void>(engine->StartClose());
  for (const auto& engine : closing) engine->CloseNow();
}

}  // namespace vmfork
