// EventPump: the one way from an engine's threads to JavaScript's: a queue of tasks, and
// ThreadSafeFunctions that only ring. It also keeps the promises that such tasks settle.
//
// The queue is ours because a ThreadSafeFunction dies with its environment, which may end at any
// time (worker.terminate()); what was queued for it must then still be released, descriptors above
// all.
#pragma once

#include <napi.h>

#include <array>
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

class EventPump : public std::enable_shared_from_this<EventPump> {
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
  void Close();

 private:
  struct Pending {
    napi_deferred deferred;
    Napi::ObjectReference receiver;
  };

  static void OnRing(napi_env env, napi_value on_event, void* context, void* data);
  static void OnFunctionGone(napi_env env, void* data, void* hint);
  void RunTasks(const JsTurn& turn);
  napi_threadsafe_function NewBell(Napi::Env env, Napi::Function on_event);
  void HoldLoop(Napi::Env env, bool on);
  std::vector<Task> TakeAndForbid();

  // A function rung while it runs is run again at once, up to 1,000 times (node_api.cc), and a busy
  // guest would hold JavaScript's thread for as long. Two that take turns let the event loop go
  // round between.
  using Bells = std::array<napi_threadsafe_function, 2>;

  std::mutex mutex_;  // guards the next five
  std::vector<Task> tasks_;
  Bells bells_{};
  size_t next_bell_ = 0;
  bool rung_ = false;  // a ring is under way; it will find what is queued until then
  bool open_ = false;  // false: the bells may not be used
  // This and the next: JavaScript's thread only.
  std::unordered_map<PromiseId, Pending> pending_;
  PromiseId last_promise_id_ = 0;
};

}  // namespace vmfork
