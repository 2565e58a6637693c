// The verbs of a VM.
#include "vm/vm.h"

#include <algorithm>
#include <string>

#include "base/out_of_memory.h"
#include "boot/cpuid.h"
#include "memory/layout.h"
#include "memory/page_scan.h"
#include "vm/end_reporter.h"
#include "vm/guest_loader.h"
#include "vm/machine.h"
#include "vm/media.h"
#include "vm/retired_machine.h"

namespace vmfork {

namespace {

// So many machines are a crowd.
constexpr uint32_t kCrowd = 2;

Result<std::shared_ptr<const BlockMedium>> OpenMedium(Engine& engine, const DiskOptions& options) {
  if (options.path.empty())
    return BlockMedium::MakeScratch(options.scratch_bytes, engine.ScratchDirectory());
  VMFORK_TRY(medium, BlockMedium::Open(options.path, options.kind, ErrorCode::kDisk));
  if (medium->Sectors() == 0 || medium->SizeBytes() % BlockMedium::kSectorBytes != 0) {
    return Fail(ErrorCode::kDisk, "attach disk",
                options.path + " has " + std::to_string(medium->SizeBytes()) +
                    " bytes, not a multiple of 512");
  }
  return engine.Images().Share(std::move(medium));
}

// A shell that is ready for a clone of `snapshot`. Null: none is, a disk's file would have to be
// made, or none should be used up for a snapshot that is going to be refused.
std::unique_ptr<Shell> TryTakeShell(Engine& engine, const Snapshot& snapshot, StageClock& clock) {
  if (!snapshot.CheckSound("fork")) return nullptr;
  const MachineState& state = snapshot.State();
  const bool has_disk = std::ranges::any_of(state.config.media, &BlockDisk::IsWritable);
  return engine.Shells().TryTake(snapshot.Shape(), clock, has_disk ? &state : nullptr);
}

// What is mapped in a machine that has not run yet, the host has used; what it owns, the host has
// written. The next clone's shell can have those pages before it is asked for.
void LearnHostUse(Machine& machine, const Snapshot& snapshot) {
  const std::span<const std::byte> memory(machine.View().Data(), machine.View().Size());
  const auto used = FindPresentPages(memory);
  const auto written = FindOwnedPages(memory);
  if (used && written) snapshot.Early().SetHostUse(*used, *written);
}

}  // namespace

Vm::Vm(std::shared_ptr<Engine> engine, std::shared_ptr<VmObserver> observer)
    : engine_(std::move(engine)), observer_(std::move(observer)) {}

Vm::~Vm() { Destroy(); }

Result<Vm::Made> Vm::MakeMachine(std::unique_ptr<Shell> shell, MachineConfig config,
                                 std::shared_ptr<const Image> image, PagesAhead ahead,
                                 const MachineState* state, size_t console_bytes,
                                 StageClock& clock) const {
  auto reporter = std::make_shared<EndReporter>(observer_, machines_);
  VMFORK_TRY(
      machine,
      Machine::Build(*engine_, std::move(shell),
                     {.config = std::move(config),
                      .state = state,
                      .image = std::move(image),
                      .ahead = std::move(ahead),
                      .console_bytes = console_bytes,
                      .on_end = [reporter](Error reason) { reporter->Report(std::move(reason)); }},
                     clock));
  reporter->SetMachine(machine.get());
  return Made{
      .reporter = std::move(reporter), .machine = std::move(machine), .control = {}, .stages = {}};
}

std::unique_ptr<Machine> Vm::Adopt(Made made) {
  std::unique_lock lock(machine_mutex_);
  if (reporter_ != nullptr) reporter_->Silence();
  ++machines_;
  reporter_ = std::move(made.reporter);
  control_ = std::move(made.control);
  stages_ = std::move(made.stages);
  return std::exchange(machine_, std::move(made.machine));
}

Result<std::shared_ptr<Vm>> Vm::Boot(std::shared_ptr<Engine> engine, const BootOptions& options,
                                     std::shared_ptr<VmObserver> observer) {
  return CatchNoMemory("boot", [&] { return BootWithMemory(engine, options, observer); });
}

Result<std::shared_ptr<Vm>> Vm::BootWithMemory(std::shared_ptr<Engine> engine,
                                               const BootOptions& options,
                                               std::shared_ptr<VmObserver> observer) {
  StageClock clock;
  VMFORK_CHECK(CheckMemorySize(options.memory_bytes));
  VMFORK_TRY(disks, OpenDisks(*engine, options.disk_paths));
  std::shared_ptr<Vm> vm(new Vm(std::move(engine), std::move(observer)));
  auto cpuid = FitCpuid(vm->engine_->SupportedCpuid(), vm->engine_->Host(), options.vcpus);
  MachineConfig config = {.memory_bytes = options.memory_bytes,
                          .vcpus = options.vcpus,
                          .cid = options.cid,
                          .disks = std::move(disks),
                          .media = {}};
  const SharedShape shape = Machine::Shape(config, std::move(cpuid));
  VMFORK_TRY(shell, vm->engine_->Shells().Take(shape, clock));
  VMFORK_CHECK(shell->MakeFresh());
  VMFORK_TRY(made,
             vm->MakeMachine(std::move(shell), std::move(config), Image::Zero(options.memory_bytes),
                             {}, nullptr, options.console_bytes, clock));
  Machine& machine = *made.machine;
  VMFORK_CHECK(LoadGuest(machine, options));
  clock.Lap("load_kernel");
  vm->Adopt(std::move(made));
  VMFORK_CHECK(vm->Listen(Machine::kControlPort));
  machine.StartVcpus();
  clock.Lap("start");
  vm->stages_ = clock.Take();
  return vm;
}

Result<Vm::Made> Vm::MakeClone(const Snapshot& snapshot, std::unique_ptr<Shell> shell,
                               const ForkOptions& options, StageClock& clock) const {
  VMFORK_CHECK(snapshot.CheckSound("fork"));
  const MachineState& state = snapshot.State();
  MachineConfig config = state.config;
  if (shell == nullptr) {
    VMFORK_TRY(taken, engine_->Shells().Take(snapshot.Shape(), clock));
    shell = std::move(taken);
  }
  if (!shell->WaitsFor(state)) {
    VMFORK_CHECK(ForkMedia(*engine_, config));
    clock.Lap("media");
  }
  // Each page that a guest has to wait for takes the process's memory lock. Few guests get it at
  // once; many stand in each other's way and, above all, in that of the forks after theirs.
  PagesAhead ahead;
  if (engine_->Machines() >= kCrowd) ahead = snapshot.Early().OfStart();
  VMFORK_TRY(made, MakeMachine(std::move(shell), std::move(config), snapshot.GetImage(),
                               std::move(ahead), &state, options.console_bytes, clock));
  Machine& machine = *made.machine;
  VMFORK_CHECK(machine.WriteState(state, clock));
  engine_->Shells().Expect(machine.GetShell(), snapshot);
  // A guest that had not dialled the control port when it was frozen has no channel to continue.
  // Before the guest runs: its first instructions already find the interrupt.
  auto control = machine.AttachControl(options.control_bytes);
  if (control) {
    made.control = std::move(*control);
  } else if (control.error().code != ErrorCode::kState || !options.control_bytes.empty()) {
    return std::unexpected(std::move(control).error());
  }
  machine.Vsock().SetCid(options.cid);
  clock.Lap("identity");
  machine.ResumeDevices();
  if (made.control.IsValid()) VMFORK_CHECK(machine.Vsock().CheckControl());
  clock.Lap("wake_devices");
  if (!snapshot.Early().HasHostUse()) LearnHostUse(machine, snapshot);
  // Who has no channel is not heard to be up.
  made.control.IsValid() ? machine.StartInTurn(state.clock) : machine.StartVcpus();
  clock.Lap("start");
  made.stages = clock.Take();
  return made;
}

Result<std::shared_ptr<Vm>> Vm::Fork(std::shared_ptr<Engine> engine,
                                     const std::shared_ptr<const Snapshot>& snapshot,
                                     const ForkOptions& options,
                                     std::shared_ptr<VmObserver> observer) {
  return CatchNoMemory("fork", [&] {
    StageClock clock;
    return ForkInto(nullptr, engine, snapshot, options, observer, clock);
  });
}

Result<std::shared_ptr<Vm>> Vm::TryFork(std::shared_ptr<Engine> engine,
                                        const std::shared_ptr<const Snapshot>& snapshot,
                                        const ForkOptions& options,
                                        std::shared_ptr<VmObserver> observer) {
  return CatchNoMemory("fork", [&]() -> Result<std::shared_ptr<Vm>> {
    StageClock clock;
    auto shell = TryTakeShell(*engine, *snapshot, clock);
    if (shell == nullptr) return nullptr;
    return ForkInto(std::move(shell), engine, snapshot, options, observer, clock);
  });
}

Result<std::shared_ptr<Vm>> Vm::ForkInto(std::unique_ptr<Shell> shell,
                                         std::shared_ptr<Engine> engine,
                                         const std::shared_ptr<const Snapshot>& snapshot,
                                         const ForkOptions& options,
                                         std::shared_ptr<VmObserver> observer, StageClock& clock) {
  std::shared_ptr<Vm> vm(new Vm(std::move(engine), std::move(observer)));
  VMFORK_TRY(made, vm->MakeClone(*snapshot, std::move(shell), options, clock));
  vm->origin_ = snapshot;
  vm->Adopt(std::move(made));
  return vm;
}

Result<void> Vm::Reset(const ForkOptions& options) {
  std::lock_guard order(order_mutex_);
  VMFORK_CHECK(CheckResettable());
  if (retired_ != nullptr) retired_->TakeDown();
  VMFORK_TRY(before, CatchNoMemory("reset", [&] {
               StageClock clock;
               return ResetInto(nullptr, options, clock);
             }));
  Retire(std::move(before));
  return {};
}

Result<bool> Vm::TryReset(const ForkOptions& options, const std::function<void()>& on_running) {
  const std::unique_lock order(order_mutex_, std::try_to_lock);
  if (!order) return false;
  VMFORK_CHECK(CheckResettable());
  if (retired_ != nullptr && !retired_->IsGone()) return false;
  VMFORK_TRY(before, CatchNoMemory("reset", [&]() -> Result<std::unique_ptr<Machine>> {
               StageClock clock;
               auto shell = TryTakeShell(*engine_, *origin_, clock);
               if (shell == nullptr) return nullptr;
               return ResetInto(std::move(shell), options, clock);
             }));
  if (before == nullptr) return false;
  on_running();
  Retire(std::move(before));
  return true;
}

Result<void> Vm::CheckResettable() const {
  if (origin_ == nullptr) return Fail(ErrorCode::kState, "reset", "the VM was not forked");
  if (paused_) return Fail(ErrorCode::kState, "reset", "the VM is paused");
  std::shared_lock lock(machine_mutex_);
  return CheckAlive();
}

Result<std::unique_ptr<Machine>> Vm::ResetInto(std::unique_ptr<Shell> shell,
                                               const ForkOptions& options, StageClock& clock) {
  VMFORK_TRY(made, MakeClone(*origin_, std::move(shell), options, clock));
  return Adopt(std::move(made));
}

void Vm::Retire(std::unique_ptr<Machine> machine) {
  machine->RequestStop();
  const bool is_left_to_reapers = TryWithMemory([&] {
    retired_ = std::make_shared<RetiredMachine>(std::move(machine));
    engine_->Reapers().Submit([retired = retired_] { retired->TakeDown(); });
  });
  // The reset has happened: what is in the way of its end is done here.
  if (is_left_to_reapers) return;
  machine.reset();
  if (retired_ != nullptr) retired_->TakeDown();
}

std::vector<Stage> Vm::Stages() const {
  std::shared_lock lock(machine_mutex_);
  return stages_;
}

Result<void> Vm::CheckAlive() const {
  if (machine_ == nullptr) return Fail(ErrorCode::kGone, "vm", "destroyed");
  return {};
}

Result<UniqueFd> Vm::TakeControl() {
  std::unique_lock lock(machine_mutex_);
  if (!control_.IsValid())
    return Fail(ErrorCode::kState, "take control channel", "there is none, or it was taken");
  return std::move(control_);
}

Result<void> Vm::AttachDisk(size_t slot, const DiskOptions& options) {
  return CatchNoMemory("attach disk", [&]() -> Result<void> {
    // Opened first: a slow filesystem must not hold up a pause.
    VMFORK_TRY(medium, OpenMedium(*engine_, options));
    std::lock_guard order(order_mutex_);
    std::shared_lock lock(machine_mutex_);
    VMFORK_CHECK(CheckAlive());
    return machine_->InsertDisk(slot, {.medium = std::move(medium), .serial = options.serial});
  });
}

Result<void> Vm::DetachDisk(size_t slot) {
  std::lock_guard order(order_mutex_);
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  return machine_->EjectDisk(slot);
}

void Vm::Connect(uint32_t port, std::function<void(Result<UniqueFd>)> done) {
  std::shared_lock lock(machine_mutex_);
  if (auto alive = CheckAlive(); !alive) return done(std::unexpected(alive.error()));
  machine_->Vsock().Connect(port, std::move(done));
}

Result<void> Vm::Listen(uint32_t port) {
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  return machine_->Vsock().Listen(port,
                                  [observer = observer_, port](uint32_t guest_port, UniqueFd fd) {
                                    observer->OnConnection(port, guest_port, std::move(fd));
                                  });
}

void Vm::Unlisten(uint32_t port) {
  std::shared_lock lock(machine_mutex_);
  if (machine_ != nullptr) machine_->Vsock().Unlisten(port);
}

void Vm::WatchConsole(bool on) {
  std::shared_lock lock(machine_mutex_);
  if (machine_ == nullptr) return;
  if (!on) return machine_->Console().Watch(nullptr);
  machine_->Console().Watch(
      [observer = observer_](std::span<const std::byte> bytes) { observer->OnConsole(bytes); });
}

std::string Vm::ConsoleTail() const {
  std::shared_lock lock(machine_mutex_);
  return machine_ == nullptr ? last_console_ : machine_->Console().Tail();
}

void Vm::RequestStop() {
  std::shared_lock lock(machine_mutex_);
  if (machine_ == nullptr) return;
  reporter_->Silence();
  machine_->RequestStop();
}

void Vm::Destroy() {
  std::unique_ptr<Machine> machine;
  std::lock_guard order(order_mutex_);
  {
    std::unique_lock lock(machine_mutex_);
    if (reporter_ != nullptr) reporter_->Silence();
    if (machine_ != nullptr) TryWithMemory([&] { last_console_ = machine_->Console().Tail(); });
    machine = std::move(machine_);
    control_.Reset();
  }
  machine.reset();
  // Not by waiting for the reaper that is to do it: this may be the only one that is free.
  if (retired_ != nullptr) retired_->TakeDown();
}

}  // namespace vmfork
