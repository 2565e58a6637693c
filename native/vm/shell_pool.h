// ShellPool: shells that wait to be used. A fork takes one and only has to fill it in; what a
// machine leaves behind comes back. Bounded, and never needed: an empty pool makes a fork slower.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/worker_pool.h"
#include "vm/shell.h"

namespace vmfork {

class ShellPool;
class Snapshot;

// How a snapshot tells a pool that it is no more, if that still exists.
class ShellPoolLink {
 public:
  explicit ShellPoolLink(ShellPool* pool) : pool_(pool) {}
  // Nobody can fork a snapshot with this image any more.
  void Forget(const Image& image);
  void Cut();  // the pool goes

 private:
  std::mutex mutex_;
  ShellPool* pool_;
};

struct ShellLimits {
  size_t ready = 4;  // of a shape that is in use: made in the background as others are taken
  size_t kept = 32;  // of all shapes together: what comes back beyond it is closed
};

class ShellPool {
 public:
  // All of the engine is used, until the pool is gone.
  ShellPool(const Engine& engine, ShellLimits limits);
  ~ShellPool();  // waits for the one being made

  // One from the pool, or one made now. Errors: those of Shell::Build().
  Result<std::unique_ptr<Shell>> Take(const SharedShape& shape, StageClock& clock);
  // One from the pool (lap "shell"), or null. Does not block. With `state`: only one that waits for
  // a machine with it.
  std::unique_ptr<Shell> TryTake(const SharedShape& shape, StageClock& clock,
                                 const MachineState* state = nullptr);
  // Takes back a shell that no machine uses any more. Blocks while it is recycled. `was_started`:
  // its guest had come up. The next one then finds copied what it writes until it is up, which
  // would be wasted on guests that end before.
  void Give(std::unique_ptr<Shell> shell, bool was_started);
  // Machines of this shape are now forked from `snapshot`: shells that come back are made ready for
  // it, with its memory in view until it ends and what its clones use early in place.
  void Expect(const Shell& shell, const Snapshot& snapshot);
  // Returns when `count` of the shape wait, for forks of `snapshot` when it is given, or as many as
  // may be kept. *blocks*
  Result<void> Fill(const SharedShape& shape, size_t count, const Snapshot* snapshot = nullptr);
  // No shell that waits shows `image` from now on.
  void Forget(const Image& image);

  struct Counts {
    size_t ready = 0;     // waiting now
    uint64_t built = 0;   // ever, in the background or by a fork that found none
    uint64_t reused = 0;  // ever taken back into the pool
  };
  Counts Count() const;

 private:
  struct Rack {  // the shells of one shape
    SharedShape shape;
    std::shared_ptr<const CoreState> fresh;  // null until one has been made
    // What shells that come back are to hold, and the snapshot that it was made for; null: what
    // they held when they were new.
    std::shared_ptr<const CoreState> rest;
    const Snapshot* expected = nullptr;
    std::vector<std::unique_ptr<Shell>> shells;
  };
  // Makes it when it is not there; what that pushes out is for the caller to let go of.
  Rack& FindRack(const SharedShape& shape, std::list<Rack>& dropped);
  // Null: the shape went out of use. The lock must be held.
  Rack* RackOf(const SharedShape& shape);
  // What a shell that comes back is to hold; nothing when there is no room for it.
  std::optional<ShellContent> ContentFor(const Shell& shell, bool with_start);
  void Recycle(std::unique_ptr<Shell> shell, bool was_started);
  Result<void> FillWithMemory(const SharedShape& shape, size_t count, const Snapshot* snapshot);
  // One of those that wait and show `image`; null: there is none.
  std::unique_ptr<Shell> TakeShowing(const Image& image);
  struct Found {
    std::unique_ptr<Shell> shell;
    SharedShape shape;
  };
  Found Find(const SharedShape& shape, const MachineState* state);
  // Puts a shell away, unless there are too many: then it gives it back.
  std::unique_ptr<Shell> Store(std::unique_ptr<Shell> shell);
  Result<std::unique_ptr<Shell>> BuildOne(SharedShape shape, StageClock& clock);
  // One that waits as those do that come back.
  Result<std::unique_ptr<Shell>> BuildPrimed(SharedShape shape, const Snapshot* snapshot);
  // The devices of the machine that a shell with this content waits for, when it can have them.
  void MakeDevices(Shell& shell, const ShellContent& content) const;
  void ScheduleRefill();
  void Refill();

  const Engine& engine_;
  const ShellLimits limits_;
  const std::shared_ptr<ShellPoolLink> link_;
  mutable std::mutex mutex_;  // guards all below
  std::list<Rack> racks_;     // used last comes first
  Counts counts_;
  bool refilling_ = false;
  bool closing_ = false;
  // Last: its threads use all the rest.
  std::unique_ptr<WorkerPool> maker_;
};

}  // namespace vmfork
