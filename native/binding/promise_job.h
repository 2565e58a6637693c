// Promise jobs: work on the engine's threads, settled on JavaScript's. Values cross between the two
// as plain C++.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "base/out_of_memory.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "binding/engine_handle.h"
#include "binding/js_error.h"

namespace vmfork {

// Called once JavaScript has the value: what it now owns must not be released here as well.
template <typename T>
void HandOver(T& /*value*/) {}
inline void HandOver(UniqueFd& fd) { fd.Release(); }

// The task that settles promise `id`; `to_js` makes the JavaScript value of a T.
template <typename T, typename ToJs>
EventPump::Task SettleTask(EventPump::PromiseId id, Result<T> result, ToJs to_js) {
  return [id, result = std::move(result), to_js = std::move(to_js)](const JsTurn& turn) mutable {
    const bool resolved = turn.pump.Settle(turn.env, id, [&]() -> Napi::Value {
      if (!result) throw ToJsError(turn.env, result.error());
      if constexpr (std::is_void_v<T>)
        return turn.env.Undefined();
      else
        return to_js(turn.env, *result);
    });
    if constexpr (!std::is_void_v<T>) {
      if (resolved) HandOver(*result);
    }
  };
}

// For a job that was not accepted; the pump may be closed, too, so no task would run.
inline void RejectClosed(Napi::Env env, EventPump& pump, EventPump::PromiseId id) {
  pump.Settle(env, id, [env]() -> Napi::Value { throw ToJsError(env, EngineClosed()); });
}

struct NoValue {};

// Runs `work`, which returns a Result<T>, on a worker and returns the promise of to_js(env, T&).
// `receiver` stays alive meanwhile.
template <typename Work, typename ToJs = NoValue>
Napi::Value RunJob(const std::shared_ptr<EngineHandle>& engine, Napi::Object receiver, Work work,
                   ToJs to_js = {}, Lane lane = Lane::kWork) {
  using T = typename std::invoke_result_t<Work&>::value_type;
  const std::shared_ptr<EventPump> pump = engine->Pump();
  const Napi::Env env = receiver.Env();
  const auto [id, promise] = pump->AddPromise(env, receiver);
  const bool accepted = engine->Submit(
      [pump, id, work = std::move(work), to_js = std::move(to_js)]() mutable {
        // Without the little memory that this takes itself nobody could be told: the process ends.
        pump->Post(SettleTask<T>(id, CatchNoMemory("job", std::ref(work)), std::move(to_js)));
      },
      lane);
  if (!accepted) RejectClosed(env, *pump, id);
  return promise;
}

}  // namespace vmfork
