// Vm: one virtual machine, made by Boot() or by Fork(); assembles memory, vCPUs and devices and
// owns them.
//
// All methods may be called on any thread. Those marked *blocks* belong on Engine::Workers(), not
// on JavaScript's thread.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "memory/page_runs.h"
#include "vm/engine.h"
#include "vm/options.h"
#include "vm/snapshot.h"
#include "vm/stage_clock.h"

namespace vmfork {

class EndReporter;
class Machine;  // the parts of a live VM: machine.h
class RetiredMachine;
class Shell;

class Vm {
 public:
  // Loads a kernel into new memory and starts it. The guest's control connection (port 1024)
  // arrives as OnConnection(). *blocks*
  static Result<std::shared_ptr<Vm>> Boot(std::shared_ptr<Engine> engine,
                                          const BootOptions& options,
                                          std::shared_ptr<VmObserver> observer);
  // A new VM over a copy-on-write view of the snapshot's memory, running. *blocks* (below a
  // millisecond)
  static Result<std::shared_ptr<Vm>> Fork(std::shared_ptr<Engine> engine,
                                          const std::shared_ptr<const Snapshot>& snapshot,
                                          const ForkOptions& options,
                                          std::shared_ptr<VmObserver> observer);
  // The same when it takes no longer than a fork does: null when no shell is ready, or a disk's
  // file has to be made. Does not block.
  static Result<std::shared_ptr<Vm>> TryFork(std::shared_ptr<Engine> engine,
                                             const std::shared_ptr<const Snapshot>& snapshot,
                                             const ForkOptions& options,
                                             std::shared_ptr<VmObserver> observer);
  ~Vm();  // Destroy()

  // The host end of a clone's control channel. Once; then, and for booted VMs, kState.
  Result<UniqueFd> TakeControl();
  std::vector<Stage> Stages() const;  // of the boot, the fork, or the newest reset

  Result<void> Pause();   // *blocks* until every vCPU is parked and devices are still. Idempotent.
  Result<void> Resume();  // Idempotent.
  // Freezes the VM. One that runs stands still only while its state and the pages it has written
  // are captured, and not for its disks; a paused one stays paused. From then on it runs on over
  // the new image itself. *blocks*
  Result<std::shared_ptr<Snapshot>> Freeze();
  // Back to the moment of its fork, as a machine of its own: see Fork(). Connections end, listeners
  // and disks attached since are gone; TakeControl() gives the new channel. The machine before it
  // is taken down in the background, at most one at a time. *blocks* Errors: kState (booted, or
  // paused), those of Fork().
  Result<void> Reset(const ForkOptions& options);
  // The same when it takes no longer than a fork does: false when no shell is ready, a disk's
  // file has to be made, or something else is being done with the VM. Does not block. `on_running`
  // is called as soon as the new machine runs, which is before the one before it is told to stop;
  // it must not use the VM.
  Result<bool> TryReset(const ForkOptions& options, const std::function<void()>& on_running);

  // The guest is up. Whether LearnStart() would tell anything new.
  bool NoteStarted();
  // For a clone whose guest is up: what it has written by now, later clones of its snapshot may
  // find copied already. Nothing while something else is being done with it. *blocks* for some
  // hundred microseconds
  void LearnStart();

  // Puts a disk into one of the kMediaSlots drives; the guest is told and finds it in its own time.
  // *blocks* Errors: kDisk (the slot is in use or read-only, or the file will not do), kGone,
  // kTooManyFiles, kSystem.
  Result<void> AttachDisk(size_t slot, const DiskOptions& options);
  // Finishes requests under way, then leaves the drive empty. *blocks* Errors: kDisk (it is empty),
  // kGone.
  Result<void> DetachDisk(size_t slot);

  // Dials a port of the guest; `done` gets a connected Unix stream socket. Errors:
  // kConnectionRefused, kGone.
  void Connect(uint32_t port, std::function<void(Result<UniqueFd>)> done);
  Result<void> Listen(uint32_t port);  // connections arrive as OnConnection()
  void Unlisten(uint32_t port);

  void WatchConsole(bool on);
  std::string ConsoleTail() const;
  Result<MemoryUse> Memory() const;  // *blocks* for some hundred microseconds
  // The guest's memory that this VM owns, by RAM offset: written since its fork or last snapshot,
  // or copied ahead of a write that was expected. *blocks* as long
  Result<std::vector<PageRun>> OwnedPages() const;
  // In which pages two VMs may differ. *blocks* until what is being done with either is done, and
  // for as long as it takes to read what they own of no common image. Errors: kGone, kState (they
  // have different sizes of memory), kSystem.
  static Result<MemoryDifference> Compare(Vm& one, Vm& other);
  // The same for all that it has touched. Where the host maps neighbours of a page that is read,
  // they count. *blocks* as long
  Result<std::vector<PageRun>> TouchedPages() const;
  // RIP of vCPU 0, `count` times, `interval_us` apart: where a boot spends its time. *blocks*
  Result<std::vector<uint64_t>> SampleRip(uint32_t count, uint32_t interval_us);

  // Ends guest execution without waiting for it: what is to be destroyed should not go on taking
  // processor time until its turn comes. Never blocks noticeably.
  void RequestStop();
  // Stops the vCPUs, closes every connection, unmaps the memory. Pending Connect()s get kGone.
  // Idempotent; *blocks* until all is gone.
  void Destroy();

 private:
  // What it shows: pages of its own over an image. Of one moment.
  struct OwnMemory {
    std::vector<PageRun> owned;
    std::shared_ptr<const Image> image;
  };
  // A machine that nobody else knows yet, and what belongs to it.
  struct Made {
    std::shared_ptr<EndReporter> reporter;
    std::unique_ptr<Machine> machine;
    UniqueFd control;
    std::vector<Stage> stages;
  };

  Vm(std::shared_ptr<Engine> engine, std::shared_ptr<VmObserver> observer);
  Result<Made> MakeMachine(std::unique_ptr<Shell> shell, MachineConfig config,
                           std::shared_ptr<const Image> image, PagesAhead ahead,
                           const MachineState* state, size_t console_bytes,
                           StageClock& clock) const;
  static Result<std::shared_ptr<Vm>> ForkInto(std::unique_ptr<Shell> shell,
                                              std::shared_ptr<Engine> engine,
                                              const std::shared_ptr<const Snapshot>& snapshot,
                                              const ForkOptions& options,
                                              std::shared_ptr<VmObserver> observer,
                                              StageClock& clock);
  // A running copy of the snapshot, in `shell` or in one from the pool.
  Result<Made> MakeClone(const Snapshot& snapshot, std::unique_ptr<Shell> shell,
                         const ForkOptions& options, StageClock& clock) const;
  std::unique_ptr<Machine> Adopt(Made made);  // the one before it
  Result<void> CheckResettable() const;
  static Result<std::shared_ptr<Vm>> BootWithMemory(std::shared_ptr<Engine> engine,
                                                    const BootOptions& options,
                                                    std::shared_ptr<VmObserver> observer);
  Result<std::shared_ptr<Snapshot>> FreezeWithMemory();
  // Returns the machine before it, for Retire().
  Result<std::unique_ptr<Machine>> ResetInto(std::unique_ptr<Shell> shell,
                                             const ForkOptions& options, StageClock& clock);
  Result<void> CheckAlive() const;
  Result<OwnMemory> GetOwnMemory();
  void Retire(std::unique_ptr<Machine> machine);

  const std::shared_ptr<Engine> engine_;
  const std::shared_ptr<VmObserver> observer_;
  std::shared_ptr<const Snapshot> origin_;  // what it was forked from; null: booted
  // One of Pause, Resume, Freeze, (Try)Reset, AttachDisk, DetachDisk, LearnStart, SampleRip,
  // Destroy at a time; guards paused_, machines_ and retired_.
  std::mutex order_mutex_;
  bool paused_ = false;
  uint32_t machines_ = 0;                    // that were in it so far
  std::shared_ptr<RetiredMachine> retired_;  // the machine before the newest reset
  // Guards all below; held shared by whoever uses the machine, and only for as long as that takes.
  // Taken after order_mutex_.
  mutable std::shared_mutex machine_mutex_;
  std::shared_ptr<EndReporter> reporter_;
  std::unique_ptr<Machine> machine_;  // null: destroyed
  UniqueFd control_;
  std::string last_console_;
  std::vector<Stage> stages_;
};

}  // namespace vmfork
