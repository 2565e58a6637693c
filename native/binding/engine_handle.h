// EngineHandle: an engine as the binding owns it: its jobs are counted and its VMs listed, so that
// it can be taken down at any time, from JavaScript (close()), by the garbage collector, or because
// the environment ends.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/thread.h"
#include "binding/event_pump.h"
#include "binding/vm_record.h"
#include "vm/engine.h"
#include "vm/snapshot.h"

namespace vmfork {

// What calls on a closed engine fail with.
Error EngineClosed();

// Which of the engine's pools a job runs on.
enum class Lane { kWork, kTeardown, kScrub };

class EngineHandle : public std::enable_shared_from_this<EngineHandle> {
 public:
  EngineHandle(std::shared_ptr<Engine> engine, std::shared_ptr<EventPump> pump)
      : pump_(std::move(pump)), engine_(std::move(engine)) {}

  const std::shared_ptr<EventPump>& Pump() const { return pump_; }
  // Runs `job` on a worker; false when the engine closes. Any thread.
  bool Submit(std::move_only_function<void()> job, Lane lane = Lane::kWork);
  bool IsClosing();
  Result<ShellPool::Counts> CountShells();
  Result<uint64_t> CloneLayerBytes();
  uint32_t NewSnapshotId() { return ++last_snapshot_id_; }

  // From within a job only.
  Result<std::shared_ptr<VmRecord>> Boot(const BootOptions& options);
  Result<std::shared_ptr<VmRecord>> Fork(std::shared_ptr<const Snapshot> snapshot,
                                         const ForkOptions& options);
  // On JavaScript's thread; null when it would block.
  Result<std::shared_ptr<VmRecord>> TryFork(const std::shared_ptr<const Snapshot>& snapshot,
                                            const ForkOptions& options);
  // On JavaScript's thread; false when it would block.
  Result<bool> TryReset(Vm& vm, const ForkOptions& options,
                        const std::function<void()>& on_running);
  Result<std::shared_ptr<Snapshot>> Load(const std::string& directory, const LoadOptions& options);
  Result<void> FillShells(const Snapshot& snapshot, size_t count);
  void Destroy(VmRecord& record);

  // Starts taking the engine down on a thread of its own; any thread, idempotent. Error: no thread
  // could be had.
  Result<void> StartClose();
  // The rest: JavaScript's thread.
  Napi::Value Close(Napi::Object receiver);
  // For the end of the environment: returns when the engine is down.
  void CloseNow();

 private:
  struct Newborn {
    uint32_t id;
    std::shared_ptr<VmEvents> events;
  };
  Newborn Conceive();
  Result<std::shared_ptr<VmRecord>> Adopt(const Newborn& newborn, Result<std::shared_ptr<Vm>> vm);
  WorkerPool& PoolOf(Lane lane);
  void SubmitLocked(std::move_only_function<void()> job, Lane lane);
  // The engine stays until EndJob(). Error: kState, it is being closed.
  Result<void> BeginJob();
  void EndJob();
  void ShutDown();
  void FinishClose(const JsTurn& turn);

  const std::shared_ptr<EventPump> pump_;
  std::shared_ptr<Engine> engine_;  // reset by ShutDown() when no job is left that could use it
  std::atomic<uint32_t> last_vm_id_ = 0;
  std::atomic<uint32_t> last_snapshot_id_ = 0;
  std::mutex mutex_;  // guards the next three and the start of closer_
  bool closing_ = false;
  size_t jobs_ = 0;  // submitted and not ended
  std::unordered_map<uint32_t, std::shared_ptr<VmRecord>> live_;
  std::condition_variable jobs_ended_;
  Thread closer_;
  bool closed_ = false;  // this and the next: JavaScript's thread only
  std::vector<EventPump::PromiseId> close_promises_;
};

// Held by each JavaScript object that can make the engine work: when the last is collected, the
// engine closes.
class EngineLease {
 public:
  explicit EngineLease(std::shared_ptr<EngineHandle> handle) : handle_(std::move(handle)) {}
  // Should no thread be had, the end of the environment closes the engine.
  ~EngineLease() { static_cast<void>(handle_->StartClose()); }
  EngineLease(const EngineLease&) = delete;
  EngineLease& operator=(const EngineLease&) = delete;

  const std::shared_ptr<EngineHandle>& Handle() const { return handle_; }

 private:
  std::shared_ptr<EngineHandle> handle_;
};

}  // namespace vmfork
