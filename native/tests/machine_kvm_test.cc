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

// A guest may reset itself while its machine is being taken down. What is told then has all
// processors stop; none of them may hear of it once it belongs to the next machine.
TEST(AGuestThatResetsItselfAsItGoesLeavesItsShellUsable) {
  auto engine = TestEngine({.ready = 0, .kept = 1});
  const KernelFile kernel(kSpin + kReset + kSpin);
  BootOptions options;
  options.kernel_path = kernel.Path();
  options.memory_bytes = kMemoryBytes;
  const MachineConfig config = {
      .memory_bytes = kMemoryBytes, .vcpus = kVcpus, .cid = 3, .disks = {}, .media = {}};
  const auto cpuid = FitCpuid(engine->SupportedCpuid(), engine->Host(), kVcpus);
  StageClock clock;
  auto shell = engine->Shells().Take(Machine::Shape(config, cpuid), clock);
  std::atomic<bool> ending = false;
  Machine* running = nullptr;
  auto machine = Machine::Build(*engine, std::move(*shell),
                                {.config = config,
                                 .image = Image::Zero(kMemoryBytes),
                                 .ahead = {},
                                 .cpuid = cpuid,
                                 .console_bytes = 0,
                                 .on_end =
                                     [&](const Error&) {
                                       ending = true;
                                       ending.notify_all();
                                       std::this_thread::sleep_for(std::chrono::milliseconds(100));
                                       running->RequestStop();
                                     }},
                                clock);
  EXPECT_TRUE(machine.has_value());
  running = machine->get();
  EXPECT_TRUE(LoadGuest(**machine, options).has_value());
  EXPECT_TRUE(StartSecondAt(**machine, kSpin.size()).has_value());
  (*machine)->StartVcpus();
  ending.wait(false);
  machine->reset();
  EXPECT_EQ(engine->Shells().Count().reused, 1u);

  auto next = Boot(engine, Print("next") + kSpin, std::make_shared<Observer>(), kVcpus);
  EXPECT_TRUE(next.has_value() && WaitForConsole(**next, "next"));
  EXPECT_EQ(engine->Shells().Count().built, 1u);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
