// Recycled shells on /dev/kvm: what KVM keeps of a guest without telling, and what it has yet to do
// for one, ends with that guest; what is a guest's own comes along in snapshots.
#include "boot/cpuid.h"
#include "tests/small_guest.h"
#include "tests/test.h"
#include "vm/machine.h"

namespace vmfork {
namespace {

constexpr ShellLimits kNoPool = {.ready = 0, .kept = 0};
constexpr ShellLimits kRecycleOnly = {.ready = 0, .kept = 4};
constexpr uint64_t kMemoryBytes = 32 << 20;
// An MTRR of each kind, a bank of machine checks: KVM_GET_MSR_INDEX_LIST has none of them.
constexpr uint32_t kUnlisted[] = {0x200, 0x20f, 0x250, 0x259, 0x26f, 0x2ff, 0x402, 0x403};

std::unique_ptr<Shell> TakeShell(Engine& engine) {
  constexpr uint32_t kVcpus = 2;
  const SharedShape shape = std::make_shared<const ShellShape>(
      ShellShape{.memory_bytes = kMemoryBytes,
                 .vcpus = kVcpus,
                 .devices = 2,
                 .cpuid = FitCpuid(engine.SupportedCpuid(), engine.Host(), kVcpus)});
  StageClock clock;
  auto shell = engine.Shells().Take(shape, clock);
  if (!shell) std::fprintf(stderr, "no shell: %s\n", shell.error().ToString().c_str());
  EXPECT_TRUE(shell.has_value());
  return shell ? std::move(*shell) : nullptr;
}

// The same shell again, as its next machine finds it.
std::unique_ptr<Shell> Recycled(Engine& engine, std::unique_ptr<Shell> shell) {
  const Shell* address = shell.get();
  engine.Shells().Give(std::move(shell), false);
  shell = TakeShell(engine);
  EXPECT_TRUE(shell.get() == address);
  return shell;
}

uint64_t ReadMsr(const VcpuFd& vcpu, uint32_t index) {
  kvm_msr_entry entry{.index = index, .reserved = 0, .data = 0};
  const auto count = vcpu.GetMsrs(std::span(&entry, 1));
  EXPECT_TRUE(count.has_value() && *count == 1);
  return entry.data;
}

// What each of them may hold. Memory of type 6 is write-back.
uint64_t ValueFor(uint32_t index) {
  if (index >= 0x400) return 0x5ec2'e700'dead'beef;
  if (index >= 0x250 && index <= 0x26f) return 0x0606'0606'0606'0606;
  return index == 0x20f ? 0x800 : 6;  // the odd ones are masks, with a bit for "in use"
}

TEST(RegistersThatKvmDoesNotListAreReset) {
  auto engine = TestEngine(kRecycleOnly);
  auto shell = TakeShell(*engine);
  std::vector<uint64_t> fresh;
  for (const auto& vcpu : shell->Vcpus()) {
    for (const uint32_t index : kUnlisted) {
      fresh.push_back(ReadMsr(vcpu->Fd(), index));
      const kvm_msr_entry entry{.index = index, .reserved = 0, .data = ValueFor(index)};
      const auto count = vcpu->Fd().SetMsrs(std::span(&entry, 1));
      EXPECT_TRUE(count.has_value() && *count == 1);
      EXPECT_NE(ReadMsr(vcpu->Fd(), index), fresh.back());
    }
  }
  shell = Recycled(*engine, std::move(shell));
  auto wanted = fresh.begin();
  for (const auto& vcpu : shell->Vcpus())
    for (const uint32_t index : kUnlisted) EXPECT_EQ(ReadMsr(vcpu->Fd(), index), *wanted++);
}

// The boot processor is about to end its guest, the other one about to start at an address that
// somebody sent.
TEST(WhatWasAboutToHappenToAGuestDoesNotHappenToTheNext) {
  auto engine = TestEngine(kRecycleOnly);
  auto shell = TakeShell(*engine);
  const VcpuFd& boot_vcpu = shell->Vcpus()[0]->Fd();
  const VcpuFd& other_vcpu = shell->Vcpus()[1]->Fd();
  kvm_vcpu_events events{};
  EXPECT_TRUE(boot_vcpu.Get(events).has_value());
  const bool has_triple_fault = engine->VcpuFormat().has_triple_fault;
  EXPECT_EQ((events.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) != 0, has_triple_fault);
  if (has_triple_fault) events.triple_fault.pending = 1;
  EXPECT_TRUE(boot_vcpu.Set(events).has_value());
  EXPECT_TRUE(other_vcpu.Set(kvm_mp_state{.mp_state = KVM_MP_STATE_SIPI_RECEIVED}).has_value());

  shell = Recycled(*engine, std::move(shell));
  EXPECT_TRUE(boot_vcpu.Get(events).has_value());
  EXPECT_EQ(int{events.triple_fault.pending}, 0);
  // One that waits for its SIPI goes on as soon as one is there.
  EXPECT_TRUE(other_vcpu.Set(kvm_mp_state{.mp_state = KVM_MP_STATE_INIT_RECEIVED}).has_value());
  kvm_mp_state state{};
  EXPECT_TRUE(other_vcpu.Get(state).has_value());
  EXPECT_EQ(state.mp_state, uint32_t{KVM_MP_STATE_INIT_RECEIVED});
}

TEST(ATripleFaultThatIsPendingComesAlongInTheState) {
  auto engine = TestEngine(kRecycleOnly);
  if (!engine->VcpuFormat().has_triple_fault) return;
  auto shell = TakeShell(*engine);
  const CoreState& fresh = *shell->Fresh();
  VcpuState state = fresh.vcpus[0];
  state.events.triple_fault.pending = 1;
  const VcpuFd& vcpu = shell->Vcpus()[0]->Fd();
  EXPECT_TRUE(WriteVcpuState(vcpu, state, FindVcpuChange(fresh.vcpus[0], state)).has_value());
  const auto read = ReadVcpuState(vcpu, fresh.format);
  EXPECT_TRUE(read.has_value());
  EXPECT_EQ(int{read->events.triple_fault.pending}, 1);
}

TEST(ABootFindsTimeAtItsBeginningInARecycledShell) {
  constexpr uint64_t kLongNs = 1'000'000'000'000'000, kLongCycles = 1ULL << 60;
  constexpr uint64_t kMostNs = 10'000'000'000, kMostCycles = 100'000'000'000;
  constexpr uint32_t kMsrTsc = 0x10;
  auto engine = TestEngine(kRecycleOnly);
  auto shell = TakeShell(*engine);
  kvm_clock_data clock{};
  clock.clock = kLongNs;
  EXPECT_TRUE(shell->Kvm().SetClock(clock).has_value());
  const kvm_msr_entry tsc{.index = kMsrTsc, .reserved = 0, .data = kLongCycles};
  for (const auto& vcpu : shell->Vcpus())
    EXPECT_TRUE(vcpu->Fd().SetMsrs(std::span(&tsc, 1)).has_value());
  shell = Recycled(*engine, std::move(shell));
  EXPECT_TRUE(shell->MakeFresh().has_value());
  // Some hosts show guests their own counter, whatever is written: a new shell tells.
  const auto other = TakeShell(*engine);
  EXPECT_TRUE(other->MakeFresh().has_value());
  const auto now = shell->Kvm().GetClock();
  EXPECT_TRUE(now.has_value());
  EXPECT_LT(uint64_t{now->clock}, kMostNs);
  for (size_t i = 0; i < shell->Vcpus().size(); ++i) {
    const uint64_t as_new = ReadMsr(other->Vcpus()[i]->Fd(), kMsrTsc);
    EXPECT_LT(ReadMsr(shell->Vcpus()[i]->Fd(), kMsrTsc), as_new + kMostCycles);
  }
}

// mov $0x268,%ecx
const Code kNameMtrr = {0xb9, 0x68, 0x02, 0x00, 0x00};
// mov $0x06060606,%eax; mov %eax,%edx; wrmsr
const Code kWriteMsr = {0xb8, 0x06, 0x06, 0x06, 0x06, 0x89, 0xc2, 0x0f, 0x30};
// L: rdmsr; and $7,%al; add $'0',%al; mov $0x3f8,%dx; out %al,(%dx); jmp L
const Code kPrintMsr = {0x0f, 0x32, 0x24, 0x07, 0x04, 0x30, 0x66,
                        0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf3};

TEST(AGuestFindsMemoryTypesAsNewAfterOneThatSetThem) {
  auto engine = TestEngine(kRecycleOnly);
  {
    auto first = Boot(engine, kNameMtrr + kWriteMsr + kPrintMsr);
    EXPECT_TRUE(first.has_value() && WaitForConsole(**first, "6"));
  }
  auto second = Boot(engine, kNameMtrr + kPrintMsr);
  EXPECT_TRUE(second.has_value() && WaitForConsole(**second, "0"));
  EXPECT_TRUE((*second)->ConsoleTail().find('6') == std::string::npos);
  EXPECT_EQ(engine->Shells().Count().built, 1u);
}

TEST(ACloneHasTheMemoryTypesThatItsSourceSet) {
  auto engine = TestEngine(kNoPool);
  auto source = Boot(engine, kNameMtrr + kWriteMsr + kPrintMsr);
  EXPECT_TRUE(source.has_value() && WaitForConsole(**source, "66"));
  auto snapshot = (*source)->Freeze();
  EXPECT_TRUE(snapshot.has_value());
  auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "666"));
  EXPECT_TRUE((*clone)->ConsoleTail().find('0') == std::string::npos);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
