// Jobs, births and the end of an engine.
#include "binding/engine_handle.h"

#include <utility>

#include "base/out_of_memory.h"
#include "binding/env_data.h"
#include "binding/js_error.h"

namespace vmfork {

Error EngineClosed() { return {ErrorCode::kState, "engine", 0, "it is closed"}; }

bool EngineHandle::Submit(std::move_only_function<void()> job, Lane lane) {
  std::lock_guard lock(mutex_);
  if (closing_) return false;
  SubmitLocked(std::move(job), lane);
  return true;
}

bool EngineHandle::IsClosing() {
  std::lock_guard lock(mutex_);
  return closing_;
}

WorkerPool& EngineHandle::PoolOf(Lane lane) {
  switch (lane) {
    case Lane::kTeardown:
      return engine_->Reapers();
    case Lane::kScrub:
      return engine_->Scrubber();
    case Lane::kWork:
      break;
  }
  return engine_->Workers();
}

void EngineHandle::SubmitLocked(std::move_only_function<void()> job, Lane lane) {
  // Shared, because the pool's tasks are copyable.
  auto shared_job = std::make_shared<std::move_only_function<void()>>(std::move(job));
  PoolOf(lane).Submit([self = shared_from_this(), shared_job]() {
    (*shared_job)();
    *shared_job = nullptr;  // lets go of all it held before it counts as ended
    self->EndJob();
  });
  ++jobs_;  // which cannot have ended: that takes the lock
}

Result<void> EngineHandle::BeginJob() {
  std::lock_guard lock(mutex_);
  if (closing_) return std::unexpected(EngineClosed());
  ++jobs_;
  return {};
}

void EngineHandle::EndJob() {
  std::lock_guard lock(mutex_);
  --jobs_;
  jobs_ended_.notify_all();
}

EngineHandle::Newborn EngineHandle::Conceive() {
  const uint32_t id = ++last_vm_id_;
  return {id, std::make_shared<VmEvents>(pump_, id)};
}

Result<std::shared_ptr<VmRecord>> EngineHandle::Boot(const BootOptions& options) {
  const Newborn newborn = Conceive();
  return Adopt(newborn, Vm::Boot(engine_, options, newborn.events));
}

Result<std::shared_ptr<VmRecord>> EngineHandle::Fork(std::shared_ptr<const Snapshot> snapshot,
                                                     const ForkOptions& options) {
  const Newborn newborn = Conceive();
  return Adopt(newborn, Vm::Fork(engine_, std::move(snapshot), options, newborn.events));
}

Result<std::shared_ptr<VmRecord>> EngineHandle::TryFork(
    const std::shared_ptr<const Snapshot>& snapshot, const ForkOptions& options) {
  VMFORK_CHECK(BeginJob());
  auto record = CatchNoMemory("fork", [&]() -> Result<std::shared_ptr<VmRecord>> {
    const Newborn newborn = Conceive();
    auto vm = Vm::TryFork(engine_, snapshot, options, newborn.events);
    if (!vm || *vm != nullptr) return Adopt(newborn, std::move(vm));
    newborn.events->Mute();
    return nullptr;
  });
  EndJob();
  return record;
}

Result<bool> EngineHandle::TryReset(Vm& vm, const ForkOptions& options,
                                    const std::function<void()>& on_running) {
  VMFORK_CHECK(BeginJob());
  auto reset = vm.TryReset(options, on_running);
  EndJob();
  return reset;
}

Result<std::shared_ptr<VmRecord>> EngineHandle::Adopt(const Newborn& newborn,
                                                      Result<std::shared_ptr<Vm>> vm) {
  if (!vm) {
    newborn.events->Mute();  // what it holds back holds it
    return std::unexpected(std::move(vm).error());
  }
  std::shared_ptr<VmRecord> record;
  auto listed = CatchNoMemory("list vm", [&]() -> Result<std::shared_ptr<VmRecord>> {
    record = std::make_shared<VmRecord>(newborn.id, *vm, newborn.events);
    std::lock_guard lock(mutex_);
    // ShutDown() has its list already.
    if (closing_) return std::unexpected(EngineClosed());
    live_.emplace(newborn.id, record);
    return record;
  });
  if (listed) return listed;
  newborn.events->Mute();
  (*vm)->Destroy();
  return listed;
}

Result<std::shared_ptr<Snapshot>> EngineHandle::Load(const std::string& directory,
                                                     const LoadOptions& options) {
  return Snapshot::Load(*engine_, directory, options);
}

Result<void> EngineHandle::FillShells(const Snapshot& snapshot, size_t count) {
  return engine_->Shells().Fill(snapshot.Shape(), count, &snapshot);
}

Result<ShellPool::Counts> EngineHandle::CountShells() {
  std::lock_guard lock(mutex_);
  if (closing_) return std::unexpected(EngineClosed());
  return engine_->Shells().Count();
}

Result<uint64_t> EngineHandle::CloneLayerBytes() {
  std::lock_guard lock(mutex_);
  if (closing_) return std::unexpected(EngineClosed());
  return engine_->CloneLayers()->Bytes();
}

void EngineHandle::Destroy(VmRecord& record) {
  record.Destroy();
  std::lock_guard lock(mutex_);
  live_.erase(record.id);
}

Result<void> EngineHandle::StartClose() {
  std::lock_guard lock(mutex_);
  if (closing_) return {};
  // Captures no share of this: the thread's owner must not die on the thread. EnvData keeps it
  // until joined.
  VMFORK_CHECK(closer_.Start("vmfork-close", [this] {
    ShutDown();
    pump_->Post([this](const JsTurn& turn) { FinishClose(turn); });
  }));
  closing_ = true;
  return {};
}

void EngineHandle::ShutDown() {
  std::unique_lock lock(mutex_);
  for (auto& [id, record] : std::exchange(live_, {})) {
    record->events->Mute();
    SubmitLocked([record] { record->Destroy(); }, Lane::kTeardown);
  }
  jobs_ended_.wait(lock, [this] { return jobs_ == 0; });
  lock.unlock();
  // Its threads are joined here, so not on one of them: no job is left that could hold the last
  // share.
  engine_.reset();
}

Napi::Value EngineHandle::Close(Napi::Object receiver) {
  const Napi::Env env = receiver.Env();
  OrThrow(env, StartClose());
  const auto [id, promise] = pump_->AddPromise(env, receiver);
  if (closed_)
    pump_->Settle(env, id, [env] { return env.Undefined(); });
  else
    close_promises_.push_back(id);
  return promise;
}

void EngineHandle::FinishClose(const JsTurn& turn) {
  const auto self = shared_from_this();
  closer_.Join();
  closed_ = true;
  for (const EventPump::PromiseId id : std::exchange(close_promises_, {}))
    pump_->Settle(turn.env, id, [&turn] { return turn.env.Undefined(); });
  pump_->Close();
  EnvData::Of(turn.env).engines.erase(self);
}

void EngineHandle::CloseNow() {
  bool started = false;
  {
    std::lock_guard lock(mutex_);
    started = std::exchange(closing_, true);
  }
  if (started)
    closer_.Join();
  else
    ShutDown();
  pump_->Close();
}

}  // namespace vmfork
