// A machine's parts on /dev/kvm: how it ends.
#include <atomic>
#include <chrono>
#include <thread>

#include "boot/cpuid.h"
#include "tests/small_guest.h"
#include "tests/test.h"
#include "vm/guest_loader.h"
#include "vm/machine.h"

namespace vmfork {
namespace {

constexpr uint64_t kMemoryBytes = 32 << 20;
constexpr uint32_t kVcpus = 2;
constexpr uint64_t kBootProcessor = 1 << 8;  // in IA32_APIC_BASE (Intel SDM, volume 3, 11.4.4)

// The first processor spins; the second begins behind that.
Result<void> StartSecondAt(Machine& machine, uint64_t offset) {
  const VcpuFd& first = machine.BootVcpu().Fd();
  const VcpuFd& second = machine.GetShell().Vcpus()[1]->Fd();
  kvm_regs regs{};
  kvm_sregs sregs{};
  VMFORK_CHECK(first.Get(regs));
  VMFORK_CHECK(first.Get(sregs));
  regs.rip += offset;
  sregs.apic_base &= ~kBootProcessor;
  VMFORK_CHECK(second.Set(sregs));
  VMFORK_CHECK(second.Set(regs));
  return second.Set(kvm_mp_state{.mp_state = KVM_MP_STATE_RUNNABLE});
}

Result<std::unique_ptr<Machine>> Build(Engine& engine, const BootOptions& options, uint32_t vcpus,
                                       std::function<void(Error)> on_end) {
  const MachineConfig config = {
      .memory_bytes = kMemoryBytes, .vcpus = vcpus, .cid = 3, .disks = {}, .media = {}};
  const auto cpuid = FitCpuid(engine.SupportedCpuid(), engine.Host(), vcpus);
  StageClock clock;
  VMFORK_TRY(shell, engine.Shells().Take(Machine::Shape(config, cpuid), clock));
  VMFORK_TRY(machine, Machine::Build(engine, std::move(shell),
                                     {.config = config,
                                      .state = nullptr,
                                      .image = Image::Zero(kMemoryBytes),
                                      .ahead = {},
                                      .console_bytes = options.console_bytes,
                                      .on_end = std::move(on_end)},
                                     clock));
  VMFORK_CHECK(LoadGuest(*machine, options));
  return machine;
}

BootOptions OptionsFor(const KernelFile& kernel) {
  BootOptions options;
  options.kernel_path = kernel.Path();
  options.memory_bytes = kMemoryBytes;
  return options;
}

void WaitUntilUp(Machine& machine) {
  while (machine.Console().Tail().empty())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// A guest may reset itself while its machine is being taken down. What is told then has all
// processors stop; none of them may hear of it once it belongs to the next machine.
TEST(AGuestThatResetsItselfAsItGoesLeavesItsShellUsable) {
  auto engine = TestEngine({.ready = 0, .kept = 1});
  const KernelFile kernel(kSpin + kReset + kSpin);
  std::atomic<bool> ending = false;
  Machine* running = nullptr;
  auto machine = Build(*engine, OptionsFor(kernel), kVcpus, [&](const Error&) {
    ending = true;
    ending.notify_all();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    running->RequestStop();
  });
  EXPECT_TRUE(machine.has_value());
  running = machine->get();
  EXPECT_TRUE(StartSecondAt(**machine, kSpin.size()).has_value());
  (*machine)->StartVcpus();
  ending.wait(false);
  machine->reset();
  EXPECT_EQ(engine->Shells().Count().reused, 1u);

  auto next = Boot(engine, Print("next") + kSpin, std::make_shared<Observer>(), kVcpus);
  EXPECT_TRUE(next.has_value() && WaitForConsole(**next, "next"));
  EXPECT_EQ(engine->Shells().Count().built, 1u);
}

TEST(MachinesThatWaitForTheirTurnCanBeParkedAndEnded) {
  auto engine = TestEngine({.ready = 0, .kept = 0});
  const KernelFile kernel(Print("up") + kHalt);
  const size_t at_once = engine->Starts().AtOnce();
  std::vector<std::unique_ptr<Machine>> machines;
  for (size_t i = 0; i < at_once + 4; ++i) {
    auto machine = Build(*engine, OptionsFor(kernel), 1, [](const Error&) {});
    EXPECT_TRUE(machine.has_value());
    auto clock = (*machine)->GetShell().Kvm().GetClock();
    EXPECT_TRUE(clock.has_value());
    machines.push_back(std::move(*machine));
    clock->flags = 0;  // as Machine::ReadState() has it
    machines.back()->StartInTurn(*clock);
  }
  for (size_t i = 0; i < at_once; ++i) WaitUntilUp(*machines[i]);
  // Out of turn: a pause that ends starts what has not run yet.
  machines[at_once]->Park();
  machines[at_once]->Unpark();
  WaitUntilUp(*machines[at_once]);
  machines[at_once + 1].reset();
  machines[0].reset();
  WaitUntilUp(*machines[at_once + 2]);
  machines[1].reset();
  WaitUntilUp(*machines[at_once + 3]);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
