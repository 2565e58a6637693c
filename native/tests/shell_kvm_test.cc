// Recycled shells on /dev/kvm: nothing of the machine before is left in one, and a fork into one is
// the fork into a new one.
#include <algorithm>
#include <cstring>
#include <thread>

#include "boot/cpuid.h"
#include "memory/page_scan.h"
#include "tests/small_guest.h"
#include "tests/test.h"
#include "vm/machine.h"

namespace vmfork {
namespace {

constexpr uint64_t kMemoryBytes = 32 << 20;
constexpr uint32_t kMsrTsc = 0x10, kMsrLstar = 0xc000'0082, kMsrStar = 0xc000'0081;
constexpr uint32_t kMsrKernelGsBase = 0xc000'0102, kMsrKvmClock = 0x4b56'4d01;
constexpr uint32_t kMsrMtrr4K = 0x268, kMsrMc0Address = 0x402;
constexpr ShellLimits kNoPool = {.ready = 0, .kept = 0};
constexpr ShellLimits kRecycleOnly = {.ready = 0, .kept = 4};

SharedShape TestShape(const Engine& engine, uint32_t vcpus = 2) {
  return std::make_shared<const ShellShape>(
      ShellShape{.memory_bytes = kMemoryBytes,
                 .vcpus = vcpus,
                 .devices = 2,
                 .cpuid = FitCpuid(engine.SupportedCpuid(), engine.Host(), vcpus)});
}

std::unique_ptr<Shell> TakeShell(Engine& engine, const SharedShape& shape) {
  StageClock clock;
  auto shell = engine.Shells().Take(shape, clock);
  if (!shell) std::fprintf(stderr, "no shell: %s\n", shell.error().ToString().c_str());
  return shell ? std::move(*shell) : nullptr;
}

std::vector<std::byte> Bytes(const VcpuState& state) {
  VcpuState still = state;
  for (kvm_msr_entry& entry : still.msrs)
    if (entry.index == kMsrTsc) entry.data = 0;
  ByteWriter out;
  EncodeVcpuState(still, out);
  return out.Take();
}

void ExpectEqual(const CoreState& one, const CoreState& other) {
  EXPECT_EQ(one.vcpus.size(), other.vcpus.size());
  for (size_t i = 0; i < one.vcpus.size(); ++i)
    EXPECT_TRUE(Bytes(one.vcpus[i]) == Bytes(other.vcpus[i]));
  for (size_t i = 0; i < one.irqchips.size(); ++i)
    EXPECT_EQ(
        std::memcmp(&one.irqchips[i].chip, &other.irqchips[i].chip, sizeof one.irqchips[i].chip),
        0);
}

// A guest's traces everywhere: registers, FPU, debug registers, MSRs, APIC, pending events.
VcpuState Used(VcpuState state) {
  state.regs.rax = state.regs.r15 = 0x5ec2'e700'dead'beef;
  state.regs.rip = 0x1234;
  state.sregs.cr2 = 0x5ec2'e700;
  state.debugregs.db[0] = 0x5ec2'e700;
  // XSAVE's legacy area: x87 control word, XMM0; and the header's bits that say both are there
  // (Intel SDM, volume 1, 13.4).
  const uint16_t control_word = 0x027f;
  std::memcpy(state.xsave.data(), &control_word, sizeof control_word);
  std::memset(state.xsave.data() + 160, 0x5e, 16);
  state.xsave[512] |= std::byte{3};
  for (kvm_msr_entry& entry : state.msrs) {
    if (entry.index == kMsrLstar || entry.index == kMsrKernelGsBase) entry.data = 0x5ec2'e700;
    if (entry.index == kMsrStar) entry.data = 0x0023'0010'0000'0000;
    if (entry.index == kMsrKvmClock) entry.data = 0x1001;
    if (entry.index == kMsrMc0Address) entry.data = 0x5ec2'e700;
    if (entry.index == kMsrMtrr4K) entry.data = 0x0606'0606'0606'0606;
  }
  // Software-enabled, a periodic timer that runs, an interrupt in service (SDM, volume 3, 11.4).
  const auto set = [&state](size_t offset, uint32_t value) {
    std::memcpy(state.lapic.regs + offset, &value, sizeof value);
  };
  set(0xf0, 0x1ff);
  set(0x320, 0x2'00ee);
  set(0x380, 100'000'000);
  set(0x120, 1U << 5);
  state.events.nmi.pending = 1;
  state.events.exception.injected = 0;
  return state;
}

TEST(RecycledShellIsAsNew) {
  auto engine = TestEngine(kRecycleOnly);
  const SharedShape shape = TestShape(*engine);
  auto shell = TakeShell(*engine, shape);
  const std::shared_ptr<const CoreState> fresh = shell->Fresh();
  for (size_t i = 0; i < shell->Vcpus().size(); ++i) {
    const VcpuFd& vcpu = shell->Vcpus()[i]->Fd();
    const VcpuState used = Used(fresh->vcpus[i]);
    EXPECT_TRUE(WriteVcpuState(vcpu, used, FindVcpuChange(fresh->vcpus[i], used)).has_value());
  }
  kvm_irqchip ioapic = fresh->irqchips[2];
  ioapic.chip.ioapic.redirtbl[5].bits = 0x31;
  EXPECT_TRUE(shell->Kvm().SetIrqchip(ioapic).has_value());
  EXPECT_TRUE(shell->Kvm().SetIrqLine(3, true).has_value());
  EXPECT_TRUE(shell->Kvm().SetIrqLine(3, false).has_value());
  EXPECT_TRUE(shell->View().Show(Image::Zero(kMemoryBytes)).has_value());
  const std::byte secret{0x5e};
  EXPECT_TRUE(shell->Memory().Write(Gpa{0x4000}, std::span(&secret, 1)));
  shell->Bell().Event().Signal();
  {
    auto used = shell->ReadState(fresh->format);
    EXPECT_TRUE(used.has_value());
    EXPECT_FALSE(Bytes(used->vcpus[0]) == Bytes(fresh->vcpus[0]));
    EXPECT_FALSE(Bytes(used->vcpus[1]) == Bytes(fresh->vcpus[1]));
  }
  const Shell* address = shell.get();
  engine->Shells().Give(std::move(shell), false);
  EXPECT_EQ(engine->Shells().Count().reused, 1u);

  shell = TakeShell(*engine, shape);
  EXPECT_TRUE(shell.get() == address);
  auto now = shell->ReadState(fresh->format);
  EXPECT_TRUE(now.has_value());
  ExpectEqual(*now, *fresh);
  EXPECT_TRUE(shell->View().GetImage() == nullptr);
  EXPECT_TRUE(shell->View().Show(Image::Zero(kMemoryBytes)).has_value());
  std::byte read{1};
  EXPECT_TRUE(shell->Memory().Read(Gpa{0x4000}, std::span(&read, 1)) && read == std::byte{0});
  EXPECT_FALSE(shell->Bell().Event().Drain());
}

std::vector<std::byte> StateAfterFork(const std::shared_ptr<Engine>& engine,
                                      const Snapshot& snapshot) {
  const MachineState& state = snapshot.State();
  StageClock clock;
  auto shell = TakeShell(*engine, snapshot.Shape());
  auto machine = Machine::Build(*engine, std::move(shell),
                                {.config = state.config,
                                 .state = &state,
                                 .image = snapshot.GetImage(),
                                 .ahead = {},
                                 .console_bytes = 0,
                                 .on_end = [](const Error&) {}},
                                clock);
  EXPECT_TRUE(machine.has_value());
  EXPECT_TRUE((*machine)->WriteState(state, clock).has_value());
  engine->Shells().Expect((*machine)->GetShell(), snapshot);
  auto read = (*machine)->ReadState();
  EXPECT_TRUE(read.has_value());
  // What goes on by itself.
  read->clock = {};
  for (VcpuState& vcpu : read->vcpus)
    for (kvm_msr_entry& entry : vcpu.msrs)
      if (entry.index == kMsrTsc) entry.data = 0;
  return EncodeMachineState(*read, "");
}

TEST(ForkIntoARecycledShellIsTheForkIntoANewOne) {
  auto plain = TestEngine(kNoPool), pooled = TestEngine(kRecycleOnly);
  auto vm = Boot(plain, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE(snapshot.has_value());
  // Another guest, which has done other things, leaves its shell.
  {
    auto other = Boot(pooled, Print("other") + kSpin);
    EXPECT_TRUE(WaitForConsole(**other, "other"));
  }
  EXPECT_EQ(pooled->Shells().Count().ready, 1u);
  const auto recycled = StateAfterFork(pooled, **snapshot);
  EXPECT_EQ(pooled->Shells().Count().reused, 2u);
  EXPECT_TRUE(recycled == StateAfterFork(plain, **snapshot));
  // From now on the shell waits with most of that state in it, and with the devices.
  EXPECT_TRUE(recycled == StateAfterFork(pooled, **snapshot));
  EXPECT_EQ(pooled->Shells().Count().reused, 3u);
}

TEST(BootIntoARecycledShellFindsANewMachine) {
  auto engine = TestEngine(kRecycleOnly);
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  (*vm)->Destroy();
  // Two, so that the shell waits for a third.
  for (int i = 0; i < 2; ++i)
    EXPECT_TRUE(Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>()).has_value());
  auto shell = TakeShell(*engine, (*snapshot)->Shape());
  EXPECT_FALSE(&shell->Now() == shell->Fresh().get());
  EXPECT_TRUE(shell->MakeFresh().has_value());
  auto now = shell->ReadState(shell->Fresh()->format);
  ExpectEqual(*now, *shell->Fresh());
  engine->Shells().Give(std::move(shell), false);
  vm = Boot(engine, Print("again") + kHalt);
  EXPECT_TRUE(vm.has_value() && WaitForConsole(**vm, "again"));
  EXPECT_EQ(engine->Shells().Count().built, 1u);
}

TEST(ManyGuestsUseOneShellInTurn) {
  auto engine = TestEngine(kRecycleOnly);
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  (*vm)->Destroy();
  for (int i = 0; i < 50; ++i) {
    auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
    EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  }
  EXPECT_EQ(engine->Shells().Count().built, 1u);
  EXPECT_EQ(engine->Shells().Count().reused, 51u);
}

void ExpectMoreOfConsole(const Vm& vm) {
  const std::string then = vm.ConsoleTail();
  for (int i = 0; i < 2000 && vm.ConsoleTail() == then; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE(vm.ConsoleTail() == then);
}

TEST(ShellsThatWaitShowTheMemoryOfASnapshotUntilItEnds) {
  auto engine = TestEngine({.ready = 0, .kept = 3});
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto first = (*vm)->Freeze();
  ExpectMoreOfConsole(**vm);
  auto second = (*vm)->Freeze();
  EXPECT_FALSE((*first)->GetImage() == (*second)->GetImage());
  (*vm)->Destroy();
  vm = Fail(ErrorCode::kGone, "");
  const SharedShape shape = (*first)->Shape();
  const auto fork = [&engine](const Result<std::shared_ptr<Snapshot>>& snapshot) {
    return Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
  };
  EXPECT_TRUE(fork(first).has_value());
  EXPECT_TRUE(engine->Shells().Fill(shape, 2, first->get()).has_value());
  auto shell = TakeShell(*engine, shape);
  EXPECT_TRUE(shell->View().GetImage() == (*first)->GetImage());
  engine->Shells().Give(std::move(shell), false);
  // One shows the second snapshot now, one still the first; each is right for either.
  EXPECT_TRUE(fork(second).has_value());
  for (const auto& snapshot : {first, second, second, first}) {
    auto clone = fork(snapshot);
    EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  }
  for (auto* snapshot : {&first, &second}) {
    const std::weak_ptr<const Image> image = (**snapshot)->GetImage();
    const std::weak_ptr<const MachineState> state = (**snapshot)->SharedState();
    *snapshot = Fail(ErrorCode::kGone, "");
    EXPECT_TRUE(image.expired() && state.expired());
  }
  EXPECT_EQ(engine->Shells().Count().ready, 2u);
}

TEST(ShellsThatWaitHaveCopiedWhatStartsWrite) {
  auto engine = TestEngine({.ready = 0, .kept = 1});
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  (*vm)->Destroy();
  for (int start = 0; start < 2; ++start) {
    auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
    ExpectMoreOfConsole(**clone);
    EXPECT_TRUE((*clone)->NoteStarted());
    (*clone)->LearnStart();
  }
  const auto& early = (*snapshot)->Early();
  EXPECT_FALSE(early.OfStart().copied.empty() || early.IsWanting());
  const SharedShape shape = (*snapshot)->Shape();
  const auto bytes = [](const std::vector<PageRun>& runs) {
    uint64_t sum = 0;
    for (const PageRun& run : runs) sum += run.size;
    return sum;
  };
  const auto owned_by = [](Shell& shell) {
    return *FindOwnedPages(std::span(shell.View().Data(), shell.View().Size()));
  };
  EXPECT_TRUE(engine->Shells().Fill(shape, 1, snapshot->get()).has_value());
  for (const bool was_started : {true, false}) {
    auto shell = TakeShell(*engine, shape);
    EXPECT_EQ(bytes(owned_by(*shell)), bytes(early.OfStart().copied));
    engine->Shells().Give(std::move(shell), was_started);
  }
  EXPECT_EQ(bytes(owned_by(*TakeShell(*engine, shape))), bytes(early.OfHost().copied));
}

TEST(ShellThatWaitsHasWhatTheHostUsesAtAFork) {
  auto engine = TestEngine(kRecycleOnly);
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  (*vm)->Destroy();
  const SharedShape shape = (*snapshot)->Shape();
  const Extent& first = (*snapshot)->GetImage()->Extents().front();
  const Extent& last = (*snapshot)->GetImage()->Extents().back();
  const PageRun touched{first.start, kPageSize};
  const PageRun written{last.start + last.size - kPageSize, kPageSize};
  ShellPool& pool = engine->Shells();

  auto shell = TakeShell(*engine, shape);
  EXPECT_FALSE(shell->TakeSockets().AreValid());  // no clone is expected yet
  pool.Expect(*shell, **snapshot);
  (*snapshot)->Early().SetHostUse(std::span(&touched, 1), std::span(&written, 1));
  pool.Give(std::move(shell), false);

  shell = TakeShell(*engine, shape);
  const std::span<const std::byte> memory(shell->View().Data(), shell->View().Size());
  const auto present = FindPresentPages(memory);
  const auto covers = [&touched](const PageRun& run) {
    return run.start <= touched.start && touched.start < run.start + run.size;
  };
  EXPECT_TRUE(present.has_value() && std::ranges::any_of(*present, covers));
  const auto owned = FindOwnedPages(memory);
  EXPECT_TRUE(owned.has_value() && owned->size() == 1);
  EXPECT_EQ(owned->front().start, written.start);
  EXPECT_EQ(owned->front().size, kPageSize);
  EXPECT_TRUE(shell->TakeSockets().AreValid());
  EXPECT_FALSE(shell->TakeSockets().AreValid());  // each pair once
}

TEST(ShellOfACrashedGuestIsNotUsedAgain) {
  auto engine = TestEngine(kRecycleOnly);
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(engine, kUndefined, observer);
  observer->ended.wait(false);
  (*vm)->Destroy();
  EXPECT_EQ(engine->Shells().Count().ready, 0u);
}

TEST(PoolFillsItselfUpToItsLimit) {
  auto engine = TestEngine({.ready = 3, .kept = 5});
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  const SharedShape shape = (*snapshot)->Shape();
  {
    auto first = TakeShell(*engine, shape);
    for (int i = 0; i < 2000 && engine->Shells().Count().ready < 3; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(engine->Shells().Count().ready, 3u);
  }
  EXPECT_TRUE(engine->Shells().Fill(shape, 100, snapshot->get()).has_value());
  EXPECT_EQ(engine->Shells().Count().ready, 5u);
  // Shapes that come and go do not pile up.
  for (uint64_t i = 1; i < 20; ++i) {
    ShellShape other = *shape;
    other.memory_bytes += i << 20;
    auto shell = TakeShell(*engine, std::make_shared<const ShellShape>(std::move(other)));
    engine->Shells().Give(std::move(shell), false);
  }
  EXPECT_TRUE(engine->Shells().Count().ready <= 5);
}

TEST(ResetGoesBackToTheFork) {
  auto engine = TestEngine();
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE((*vm)->Reset({}).error().code == ErrorCode::kState);
  auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
  snapshot = Fail(ErrorCode::kGone, "");  // the clone needs nobody
  EXPECT_TRUE(WaitForConsole(**clone, "01234567"));
  const char first = (*clone)->ConsoleTail().front();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE((*clone)->Reset({}).has_value());
    EXPECT_TRUE(WaitForConsole(**clone, "01234567"));
    EXPECT_EQ((*clone)->ConsoleTail().front(), first);
  }
  (*clone)->Destroy();
  EXPECT_TRUE((*clone)->Reset({}).error().code == ErrorCode::kGone);
}

TEST(RunningGuestIsFrozenInPassing) {
  auto engine = TestEngine();
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE(snapshot.has_value() && (*snapshot)->Pause().count() > 0);
  ExpectMoreOfConsole(**vm);
  auto owned = (*vm)->OwnedPages();
  EXPECT_TRUE(owned.has_value() && !owned->empty());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
