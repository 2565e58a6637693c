// EventPump: the one way from an engine's threads to JavaScript's: a queue of tasks, and a
// ThreadSafeFunction that only rings. It also keeps the promises that such tasks settle.
//
// The queue is ours because a ThreadSafeFunction dies with its environment, which may end at any
// time (worker.terminate()); what was queued for it must then still be released, descriptors above
// all.
#pragma once

#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace vmfork {

class EventPump;

// What a task may use while it runs on JavaScript's thread.
struct JsTurn {
  Napi::Env env;
  Napi::Function on_event;
  EventPump& pump;
};

class EventPump {
 public:
  using Task = std::move_only_function<void(const JsTurn&)>;
  using PromiseId = uint64_t;
  struct NewPromise {
    PromiseId id;
    Napi::Value value;
  };

  // Does not keep the process alive while no promise is pending.
  static std::shared_ptr<EventPump> Open(Napi::Env env, Napi::Function on_event);
  EventPump() = default;
  EventPump(const EventPump&) = delete;
  EventPump& operator=(const EventPump&) = delete;

  // Has `task` run on JavaScript's thread, in order of posting. Once closed, drops it. Any thread;
  // must not carry anything of Napi.
  void Post(Task task);

  // The rest: on JavaScript's thread only.
  // `receiver` cannot be collected while the promise is pending.
  NewPromise AddPromise(Napi::Env env, Napi::Object receiver);
  // Resolves with what `make_value` returns, or rejects with the Napi::Error it throws. False:
  // JavaScript cannot have seen the value.
  bool Settle(Napi::Env env, PromiseId id, const std::function<Napi::Value()>& make_value);
  // Drops what is queued. Promises that are pending stay so: call it when none is, or when the
  // environment ends.
  void Close(Napi::Env env);

 private:
  struct Pending {
    napi_deferred deferred;
    Napi::ObjectReference receiver;
  };

  static void OnRing(napi_env env, napi_value on_event, void* context, void* data);
  static void OnFunctionGone(napi_env env, void* data, void* hint);
  void RunTasks(const JsTurn& turn);
  std::vector<Task> TakeAndForbid();

  std::mutex mutex_;  // guards the next three
  std::vector<Task> tasks_;
  bool rung_ = false;  // a ring is under way; it will find what is queued until then
  napi_threadsafe_function function_ = nullptr;     // null: closed
  std::unordered_map<PromiseId, Pending> pending_;  // this and the next: JavaScript's thread only
  PromiseId last_promise_id_ = 0;
};

}  // namespace vmfork
