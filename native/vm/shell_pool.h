// ShellPool: shells that wait to be used. A fork takes one and only has to fill it in; what a
// machine leaves behind comes back. Bounded, and never needed: an empty pool makes a fork slower.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "base/worker_pool.h"
#include "vm/shell.h"

namespace vmfork {

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
  Result<std::unique_ptr<Shell>> Take(const ShellShape& shape, StageClock& clock);
  // One from the pool (lap "shell"), or null. Does not block.
  std::unique_ptr<Shell> TryTake(const ShellShape& shape, StageClock& clock);
  // Takes back a shell that no machine uses any more. Blocks while it is recycled.
  void Give(std::unique_ptr<Shell> shell);
  // Machines of this shape are now made with `state`: shells that come back are made ready for it.
  void Expect(const Shell& shell, const MachineState& state);
  // Returns when `count` of the shape wait, for machines with `state` when it is given, or as many
  // as may be kept. *blocks*
  Result<void> Fill(const ShellShape& shape, size_t count, const MachineState* state = nullptr);

  struct Counts {
    size_t ready = 0;     // waiting now
    uint64_t built = 0;   // ever, in the background or by a fork that found none
    uint64_t reused = 0;  // ever taken back into the pool
  };
  Counts Count() const;

 private:
  struct Rack {  // the shells of one shape
    std::shared_ptr<const ShellShape> shape;
    std::shared_ptr<const CoreState> fresh;  // null until one has been made
    // What shells that come back are to hold, and the state that it was made for; that may be gone,
    // it is only compared.
    std::shared_ptr<const CoreState> rest;
    const MachineState* expected = nullptr;
    std::vector<std::unique_ptr<Shell>> shells;
  };
  // Makes it when it is not there; what that pushes out is for the caller to let go of.
  Rack& FindRack(const ShellShape& shape, std::list<Rack>& dropped);
  // Null: the shape went out of use. The lock must be held.
  Rack* RackOf(const std::shared_ptr<const ShellShape>& shape);
  // What a shell that comes back is to hold; null when there is no room for it.
  std::shared_ptr<const CoreState> StateFor(const Shell& shell);
  struct Found {
    std::unique_ptr<Shell> shell;
    std::shared_ptr<const ShellShape> shape;
  };
  Found Find(const ShellShape& shape);
  // Puts a shell away, unless there are too many: then it gives it back.
  std::unique_ptr<Shell> Store(std::unique_ptr<Shell> shell);
  Result<std::unique_ptr<Shell>> BuildOne(std::shared_ptr<const ShellShape> shape,
                                          StageClock& clock);
  // One that waits as those do that come back.
  Result<std::unique_ptr<Shell>> BuildPrimed(std::shared_ptr<const ShellShape> shape,
                                             const MachineState* state);
  void ScheduleRefill();
  void Refill();

  const Engine& engine_;
  const ShellLimits limits_;
  mutable std::mutex mutex_;  // guards all below
  std::list<Rack> racks_;     // used last comes first
  Counts counts_;
  bool refilling_ = false;
  bool closing_ = false;
  // Last: its threads use all the rest.
  std::unique_ptr<WorkerPool> maker_;
};

}  // namespace vmfork
