// Standing still: pauses, and snapshots of a VM that goes on afterwards.
#include <chrono>

#include "base/out_of_memory.h"
#include "memory/capture.h"
#include "vm/machine.h"
#include "vm/media.h"
#include "vm/vm.h"

namespace vmfork {

namespace {

// Of a machine that stands still.
Result<std::shared_ptr<Snapshot>> TakeSnapshot(Engine& engine, Machine& machine, Capture& capture,
                                               MediaCapture& media) {
  VMFORK_TRY(state, machine.ReadState());
  VMFORK_CHECK(media.Take(state.config));
  VMFORK_TRY(image, capture.Take(&engine.DiskThreads()));
  // The source goes on over the new image: what it shared with nobody it now shares with its
  // clones.
  VMFORK_CHECK(machine.View().GoOnOver(image));
  media.GoOn(machine);
  return std::make_shared<Snapshot>(std::move(image), std::move(state), std::string(),
                                    machine.GetShell().Shape());
}

}  // namespace

Result<void> Vm::Pause() {
  std::lock_guard order(order_mutex_);
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  if (!paused_) machine_->Park();
  paused_ = true;
  return {};
}

Result<void> Vm::Resume() {
  std::lock_guard order(order_mutex_);
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  if (paused_) machine_->Unpark();
  paused_ = false;
  return {};
}

Result<std::shared_ptr<Snapshot>> Vm::Freeze() {
  return CatchNoMemory("freeze", [this] { return FreezeWithMemory(); });
}

Result<std::shared_ptr<Snapshot>> Vm::FreezeWithMemory() {
  std::lock_guard order(order_mutex_);
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  // A template is nobody's clone, nor is what was frozen of it.
  VMFORK_TRY(capture, Capture::Prepare(machine_->View(),
                                       origin_ == nullptr ? nullptr : engine_->CloneLayers()));
  VMFORK_TRY(media, MediaCapture::Prepare(*engine_, *machine_));
  const auto start = std::chrono::steady_clock::now();
  if (!paused_) machine_->Park();
  // Caught here as well: whatever happens, the guest has to run again.
  auto snapshot =
      CatchNoMemory("freeze", [&] { return TakeSnapshot(*engine_, *machine_, capture, media); });
  if (!paused_) machine_->Unpark();
  const std::chrono::nanoseconds pause = std::chrono::steady_clock::now() - start;
  VMFORK_TRY(taken, std::move(snapshot));
  VMFORK_CHECK(capture.Finish());
  taken->SetPause(pause);
  if (origin_ != nullptr) taken->StandOn(*origin_);
  return taken;
}

}  // namespace vmfork
