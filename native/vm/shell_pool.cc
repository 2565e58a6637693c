// Taking, giving back and making shells.
#include "vm/shell_pool.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "base/out_of_memory.h"
#include "vm/engine.h"
#include "vm/media.h"
#include "vm/snapshot.h"

namespace vmfork {

namespace {
// A program uses one or two shapes. One that goes through many must not keep shells of them all.
constexpr size_t kMaxShapes = 8;
}  // namespace

void ShellPoolLink::Forget(const Image& image) {
  std::lock_guard lock(mutex_);
  if (pool_ != nullptr) pool_->Forget(image);
}

void ShellPoolLink::Cut() {
  std::lock_guard lock(mutex_);
  pool_ = nullptr;
}

ShellPool::ShellPool(const Engine& engine, ShellLimits limits)
    : engine_(engine),
      limits_{.ready = std::min(limits.ready, limits.kept), .kept = limits.kept},
      link_(std::make_shared<ShellPoolLink>(this)),
      maker_(std::make_unique<WorkerPool>(1, "vmfork-shell", WorkerPool::Kind::kBackground)) {}

ShellPool::~ShellPool() {
  link_->Cut();
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  maker_.reset();
}

ShellPool::Rack& ShellPool::FindRack(const SharedShape& shape, std::list<Rack>& dropped) {
  // As a rule it is the very one, and need not be read.
  const auto found = std::ranges::find_if(
      racks_, [&shape](const Rack& rack) { return rack.shape == shape || *rack.shape == *shape; });
  if (found != racks_.end()) {
    racks_.splice(racks_.begin(), racks_, found);
    return racks_.front();
  }
  racks_.push_front({.shape = shape, .fresh = {}, .rest = {}, .expected = nullptr, .shells = {}});
  racks_.front().shells.reserve(limits_.kept);  // none that is put away needs memory
  if (racks_.size() > kMaxShapes) {
    counts_.ready -= racks_.back().shells.size();
    dropped.splice(dropped.end(), racks_, std::prev(racks_.end()));
  }
  return racks_.front();
}

ShellPool::Rack* ShellPool::RackOf(const SharedShape& shape) {
  const auto found = std::ranges::find(racks_, shape, &Rack::shape);
  return found == racks_.end() ? nullptr : &*found;
}

ShellPool::Found ShellPool::Find(const SharedShape& shape, const MachineState* state) {
  std::list<Rack> dropped;
  std::unique_lock lock(mutex_);
  Rack& rack = FindRack(shape, dropped);
  Found found{.shell = {}, .shape = rack.shape};
  const auto last = std::ranges::find_if(rack.shells.rbegin(), rack.shells.rend(),
                                         [state](const std::unique_ptr<Shell>& shell) {
                                           return state == nullptr || shell->WaitsFor(*state);
                                         });
  if (last != rack.shells.rend()) {
    found.shell = std::move(*last);
    rack.shells.erase(std::prev(last.base()));
    --counts_.ready;
  }
  if (rack.shells.size() < limits_.ready) ScheduleRefill();
  return found;
}

std::unique_ptr<Shell> ShellPool::TryTake(const SharedShape& shape, StageClock& clock,
                                          const MachineState* state) {
  Found found = Find(shape, state);
  if (found.shell != nullptr) clock.Lap("shell");
  return std::move(found.shell);
}

Result<std::unique_ptr<Shell>> ShellPool::Take(const SharedShape& shape, StageClock& clock) {
  Found found = Find(shape, nullptr);
  if (found.shell == nullptr) return BuildOne(std::move(found.shape), clock);
  clock.Lap("shell");
  return std::move(found.shell);
}

void ShellPool::Give(std::unique_ptr<Shell> shell, bool was_started) {
  // Machines give theirs back as they are destroyed: a shell that there is no memory for is closed.
  TryWithMemory([&] { Recycle(std::move(shell), was_started); });
}

void ShellPool::Recycle(std::unique_ptr<Shell> shell, bool was_started) {
  // Not worth the work when there is no room; a shell that could not be recycled is closed as well.
  const auto content = ContentFor(*shell, was_started);
  if (!content || !shell->Recycle(*content)) return;
  MakeDevices(*shell, *content);
  if (Store(std::move(shell)) != nullptr) return;
  std::lock_guard lock(mutex_);
  ++counts_.reused;
}

Result<void> ShellPool::Fill(const SharedShape& shape, size_t count, const Snapshot* snapshot) {
  return CatchNoMemory("make shells", [&] { return FillWithMemory(shape, count, snapshot); });
}

Result<void> ShellPool::FillWithMemory(const SharedShape& shape, size_t count,
                                       const Snapshot* snapshot) {
  for (;;) {
    SharedShape shared_shape;
    {
      std::list<Rack> dropped;
      std::lock_guard lock(mutex_);
      const Rack& rack = FindRack(shape, dropped);
      if (rack.shells.size() >= count || counts_.ready >= limits_.kept || closing_) return {};
      shared_shape = rack.shape;
    }
    VMFORK_TRY(shell, BuildPrimed(std::move(shared_shape), snapshot));
    if (Store(std::move(shell)) != nullptr) return {};
  }
}

ShellPool::Counts ShellPool::Count() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

std::optional<ShellContent> ShellPool::ContentFor(const Shell& shell, bool with_start) {
  std::lock_guard lock(mutex_);
  if (counts_.ready >= limits_.kept || closing_) return std::nullopt;
  const Rack* rack = RackOf(shell.Shape());
  if (rack == nullptr) return std::nullopt;
  if (rack->expected == nullptr)
    return ShellContent{.cores = shell.Fresh(), .image = {}, .ahead = {}};
  const EarlyPages& early = rack->expected->Early();
  return ShellContent{.cores = rack->rest,
                      .image = rack->expected->GetImage(),
                      .ahead = with_start ? early.OfStart() : early.OfHost()};
}

void ShellPool::Expect(const Shell& shell, const Snapshot& snapshot) {
  std::lock_guard lock(mutex_);
  Rack* rack = RackOf(shell.Shape());
  if (rack == nullptr || rack->expected == &snapshot || limits_.kept == 0) return;
  auto rest =
      std::make_shared<const CoreState>(StateAtRest(snapshot.SharedState(), *shell.Fresh()));
  snapshot.TellWhenGone(link_);
  rack->rest = std::move(rest);
  rack->expected = &snapshot;
}

void ShellPool::Forget(const Image& image) {
  while (auto shell = TakeShowing(image))
    if (shell->HideMemory()) std::ignore = Store(std::move(shell));
}

std::unique_ptr<Shell> ShellPool::TakeShowing(const Image& image) {
  std::lock_guard lock(mutex_);
  for (Rack& rack : racks_) {
    if (rack.expected != nullptr && rack.expected->GetImage().get() == &image)
      rack.expected = nullptr;
    const auto shows = [&image](const std::unique_ptr<Shell>& shell) {
      return shell->View().GetImage().get() == &image;
    };
    const auto found = std::ranges::find_if(rack.shells, shows);
    if (found == rack.shells.end()) continue;
    auto shell = std::move(*found);
    rack.shells.erase(found);
    --counts_.ready;
    return shell;
  }
  return nullptr;
}

std::unique_ptr<Shell> ShellPool::Store(std::unique_ptr<Shell> shell) {
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (counts_.ready >= limits_.kept || closing_) return shell;
      Rack* rack = RackOf(shell->Shape());
      if (rack == nullptr) return shell;
      const std::shared_ptr<const Image>& image = shell->View().GetImage();
      const Snapshot* expected = rack->expected;
      if (image == nullptr || (expected != nullptr && expected->GetImage() == image)) {
        rack->shells.push_back(std::move(shell));
        ++counts_.ready;
        return nullptr;
      }
    }
    // The snapshot may have gone while the shell was made ready: it would keep memory for nobody.
    if (!shell->HideMemory()) return shell;
  }
}

Result<std::unique_ptr<Shell>> ShellPool::BuildOne(SharedShape shape, StageClock& clock) {
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

Result<std::unique_ptr<Shell>> ShellPool::BuildPrimed(SharedShape shape, const Snapshot* snapshot) {
  StageClock clock;
  VMFORK_TRY(shell, BuildOne(std::move(shape), clock));
  if (snapshot != nullptr) Expect(*shell, *snapshot);
  if (const auto content = ContentFor(*shell, true)) {
    VMFORK_CHECK(shell->Prime(*content));
    MakeDevices(*shell, *content);
  }
  return shell;
}

void ShellPool::MakeDevices(Shell& shell, const ShellContent& content) const {
  auto state = content.cores->next.lock();
  if (state == nullptr) return;
  // A fork that finds none makes its own, and says why it cannot.
  MachineConfig config = state->config;
  if (!ForkMedia(engine_, config)) return;
  auto devices = Devices::Make(engine_, shell, config);
  if (devices && (*devices)->Restore(*state)) shell.KeepDevices(std::move(*devices), state);
}

// One task at a time, one shell a turn: a fork that comes meanwhile is not kept waiting by a queue.
void ShellPool::ScheduleRefill() {
  if (refilling_ || closing_) return;
  // Whoever takes the next one tries again.
  refilling_ = TryWithMemory([this] { maker_->Submit([this] { Refill(); }); });
}

void ShellPool::Refill() {
  for (;;) {
    SharedShape shape;
    {
      std::lock_guard lock(mutex_);
      const Rack& rack = racks_.front();
      if (closing_ || rack.shells.size() >= limits_.ready || counts_.ready >= limits_.kept) {
        refilling_ = false;
        return;
      }
      shape = rack.shape;
    }
    auto shell =
        CatchNoMemory("make shells", [&] { return BuildPrimed(std::move(shape), nullptr); });
    if (!shell || Store(std::move(*shell)) != nullptr) {
      // What is missing, forks will find out and say.
      std::lock_guard lock(mutex_);
      refilling_ = false;
      return;
    }
  }
}

}  // namespace vmfork
