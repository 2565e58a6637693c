// The pump's two sides.
#include "binding/event_pump.h"

#include <utility>

namespace vmfork {

std::shared_ptr<EventPump> EventPump::Open(Napi::Env env, Napi::Function on_event) {
  auto pump = std::make_shared<EventPump>();
  for (napi_threadsafe_function& bell : pump->bells_) bell = pump->NewBell(env, on_event);
  pump->open_ = true;
  return pump;
}

napi_threadsafe_function EventPump::NewBell(Napi::Env env, Napi::Function on_event) {
  // The function owns a share: it may outlive every other owner.
  auto share = std::make_unique<std::shared_ptr<EventPump>>(shared_from_this());
  napi_threadsafe_function bell = nullptr;
  const napi_status status =
      napi_create_threadsafe_function(env, on_event, nullptr, Napi::String::New(env, "vmfork"), 0,
                                      1, share.get(), OnFunctionGone, share.get(), OnRing, &bell);
  if (status != napi_ok) throw Napi::Error::New(env);
  share.release();  // OnFunctionGone deletes it
  napi_unref_threadsafe_function(env, bell);
  return bell;
}

void EventPump::Post(Task task) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  tasks_.push_back(std::move(task));
  if (std::exchange(rung_, true)) return;
  // The only other answer than success is that the environment is ending; OnFunctionGone() or
  // Close() drops what is queued.
  napi_call_threadsafe_function(bells_[next_bell_], nullptr, napi_tsfn_nonblocking);
}

void EventPump::OnRing(napi_env env, napi_value on_event, void* context, void* /*data*/) {
  if (env == nullptr) return;
  // A copy: a task may close the pump.
  const auto pump = *static_cast<std::shared_ptr<EventPump>*>(context);
  pump->RunTasks({Napi::Env(env), Napi::Function(env, on_event), *pump});
}

void EventPump::RunTasks(const JsTurn& turn) {
  std::vector<Task> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
    rung_ = false;
    next_bell_ = 1 - next_bell_;
  }
  // One batch a ring: tasks posted meanwhile wait for the next, so that a busy guest cannot hold
  // the thread.
  for (Task& task : tasks) {
    const Napi::HandleScope scope(turn.env);
    try {
      task(turn);
    } catch (const Napi::Error& error) {
      // Nobody below us on the stack can catch it: as for any callback, it is an uncaught
      // exception.
      napi_fatal_exception(turn.env, error.Value());
    }
    task = nullptr;
  }
}

void EventPump::OnFunctionGone(napi_env /*env*/, void* data, void* /*hint*/) {
  const std::unique_ptr<std::shared_ptr<EventPump>> share(
      static_cast<std::shared_ptr<EventPump>*>(data));
  const std::vector<Task> dropped = (*share)->TakeAndForbid();
}

std::vector<EventPump::Task> EventPump::TakeAndForbid() {
  std::lock_guard lock(mutex_);
  open_ = false;
  return std::exchange(tasks_, {});
}

void EventPump::HoldLoop(Napi::Env env, bool on) {
  std::lock_guard lock(mutex_);
  if (!open_) return;
  if (on)
    napi_ref_threadsafe_function(env, bells_[0]);
  else
    napi_unref_threadsafe_function(env, bells_[0]);
}

EventPump::NewPromise EventPump::AddPromise(Napi::Env env, Napi::Object receiver) {
  napi_deferred deferred = nullptr;
  napi_value promise = nullptr;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) throw Napi::Error::New(env);
  if (pending_.empty()) HoldLoop(env, true);
  const PromiseId id = ++last_promise_id_;
  pending_.emplace(id, Pending{deferred, Napi::Persistent(receiver)});
  return {id, Napi::Value(env, promise)};
}

bool EventPump::Settle(Napi::Env env, PromiseId id,
                       const std::function<Napi::Value()>& make_value) {
  auto node = pending_.extract(id);
  if (node.empty()) return false;
  if (pending_.empty()) HoldLoop(env, false);
  const napi_deferred deferred = node.mapped().deferred;
  try {
    return napi_resolve_deferred(env, deferred, make_value()) == napi_ok;
  } catch (const Napi::Error& error) {
    napi_reject_deferred(env, deferred, error.Value());
    return false;
  }
}

void EventPump::Close() {
  bool was_open = false;
  std::vector<Task> dropped;
  {
    std::lock_guard lock(mutex_);
    was_open = std::exchange(open_, false);
    dropped.swap(tasks_);
  }
  if (was_open) {
    for (napi_threadsafe_function bell : bells_)
      napi_release_threadsafe_function(bell, napi_tsfn_release);
  }
  pending_.clear();
}

}  // namespace vmfork
