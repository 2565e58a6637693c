// Taking, giving back and making shells.
#include "vm/shell_pool.h"

#include <algorithm>

#include "vm/engine.h"

namespace vmfork {

namespace {
// A program uses one or two shapes. One that goes through many must not keep shells of them all.
constexpr size_t kMaxShapes = 8;
}  // namespace

ShellPool::ShellPool(const Engine& engine, ShellLimits limits)
    : engine_(engine),
      limits_{.ready = std::min(limits.ready, limits.kept), .kept = limits.kept},
      maker_(std::make_unique<WorkerPool>(1, "vmfork-shell")) {}

ShellPool::~ShellPool() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  maker_.reset();
}

ShellPool::Rack& ShellPool::FindRack(const ShellShape& shape, std::list<Rack>& dropped) {
  const auto found =
      std::ranges::find_if(racks_, [&shape](const Rack& rack) { return *rack.shape == shape; });
  if (found != racks_.end()) {
    racks_.splice(racks_.begin(), racks_, found);
    return racks_.front();
  }
  racks_.push_front({.shape = std::make_shared<const ShellShape>(shape),
                     .fresh = {},
                     .rest = {},
                     .expected = nullptr,
                     .shells = {}});
  if (racks_.size() > kMaxShapes) {
    counts_.ready -= racks_.back().shells.size();
    dropped.splice(dropped.end(), racks_, std::prev(racks_.end()));
  }
  return racks_.front();
}

ShellPool::Rack* ShellPool::RackOf(const std::shared_ptr<const ShellShape>& shape) {
  const auto found = std::ranges::find(racks_, shape, &Rack::shape);
  return found == racks_.end() ? nullptr : &*found;
}

ShellPool::Found ShellPool::Find(const ShellShape& shape) {
  std::list<Rack> dropped;
  std::unique_lock lock(mutex_);
  Rack& rack = FindRack(shape, dropped);
  Found found{.shell = {}, .shape = rack.shape};
  if (!rack.shells.empty()) {
    found.shell = std::move(rack.shells.back());
    rack.shells.pop_back();
    --counts_.ready;
  }
  if (rack.shells.size() < limits_.ready) ScheduleRefill();
  return found;
}

std::unique_ptr<Shell> ShellPool::TryTake(const ShellShape& shape, StageClock& clock) {
  Found found = Find(shape);
  if (found.shell != nullptr) clock.Lap("shell");
  return std::move(found.shell);
}

Result<std::unique_ptr<Shell>> ShellPool::Take(const ShellShape& shape, StageClock& clock) {
  Found found = Find(shape);
  if (found.shell == nullptr) return BuildOne(std::move(found.shape), clock);
  clock.Lap("shell");
  return std::move(found.shell);
}

void ShellPool::Give(std::unique_ptr<Shell> shell) {
  // Not worth the work when there is no room; a shell that could not be recycled is closed as well.
  const std::shared_ptr<const CoreState> state = StateFor(*shell);
  if (state == nullptr || !shell->Recycle(state)) return;
  if (Store(std::move(shell)) != nullptr) return;
  std::lock_guard lock(mutex_);
  ++counts_.reused;
}

Result<void> ShellPool::Fill(const ShellShape& shape, size_t count, const MachineState* state) {
  for (;;) {
    std::shared_ptr<const ShellShape> shared_shape;
    {
      std::list<Rack> dropped;
      std::lock_guard lock(mutex_);
      const Rack& rack = FindRack(shape, dropped);
      if (rack.shells.size() >= count || counts_.ready >= limits_.kept || closing_) return {};
      shared_shape = rack.shape;
    }
    VMFORK_TRY(shell, BuildPrimed(std::move(shared_shape), state));
    if (Store(std::move(shell)) != nullptr) return {};
  }
}

ShellPool::Counts ShellPool::Count() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

std::shared_ptr<const CoreState> ShellPool::StateFor(const Shell& shell) {
  std::lock_guard lock(mutex_);
  if (counts_.ready >= limits_.kept || closing_) return nullptr;
  const Rack* rack = RackOf(shell.Shape());
  if (rack == nullptr) return nullptr;
  return rack->rest != nullptr ? rack->rest : shell.Fresh();
}

void ShellPool::Expect(const Shell& shell, const MachineState& state) {
  std::lock_guard lock(mutex_);
  Rack* rack = RackOf(shell.Shape());
  if (rack == nullptr || rack->expected == &state) return;
  rack->rest = std::make_shared<const CoreState>(StateAtRest(state, *shell.Fresh()));
  rack->expected = &state;
}

std::unique_ptr<Shell> ShellPool::Store(std::unique_ptr<Shell> shell) {
  std::lock_guard lock(mutex_);
  if (counts_.ready >= limits_.kept || closing_) return shell;
  Rack* rack = RackOf(shell->Shape());
  if (rack == nullptr) return shell;
  rack->shells.push_back(std::move(shell));
  ++counts_.ready;
  return nullptr;
}

Result<std::unique_ptr<Shell>> ShellPool::BuildOne(std::shared_ptr<const ShellShape> shape,
                                                   StageClock& clock) {
  std::shared_ptr<const CoreState> fresh;
  {
    std::lock_guard lock(mutex_);
    if (const Rack* rack = RackOf(shape)) fresh = rack->fresh;
  }
  VMFORK_TRY(shell, Shell::Build(engine_, std::move(shape), std::move(fresh), clock));
  std::lock_guard lock(mutex_);
  ++counts_.built;
  if (Rack* rack = RackOf(shell->Shape())) rack->fresh = shell->Fresh();
  return shell;
}

Result<std::unique_ptr<Shell>> ShellPool::BuildPrimed(std::shared_ptr<const ShellShape> shape,
                                                      const MachineState* state) {
  StageClock clock;
  VMFORK_TRY(shell, BuildOne(std::move(shape), clock));
  if (state != nullptr) Expect(*shell, *state);
  if (auto rest = StateFor(*shell)) VMFORK_CHECK(shell->Prime(std::move(rest)));
  return shell;
}

// One task at a time, one shell a turn: a fork that comes meanwhile is not kept waiting by a queue.
void ShellPool::ScheduleRefill() {
  if (refilling_ || closing_) return;
  refilling_ = true;
  maker_->Submit([this] { Refill(); });
}

void ShellPool::Refill() {
  for (;;) {
    std::shared_ptr<const ShellShape> shape;
    {
      std::lock_guard lock(mutex_);
      const Rack& rack = racks_.front();
      if (closing_ || rack.shells.size() >= limits_.ready || counts_.ready >= limits_.kept) {
        refilling_ = false;
        return;
      }
      shape = rack.shape;
    }
    auto shell = BuildPrimed(std::move(shape), nullptr);
    if (!shell || Store(std::move(*shell)) != nullptr) {
      // What is missing, forks will find out and say.
      std::lock_guard lock(mutex_);
      refilling_ = false;
      return;
    }
  }
}

}  // namespace vmfork
