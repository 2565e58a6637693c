// Forks, snapshots and resets on /dev/kvm with each call to the kernel failing in turn: an error
// that says which, nothing left behind, the source runs on, and the same call works afterwards.
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <linux/virtio_config.h>
#define VIRTIO_RING_NO_LEGACY 1  // the legacy part is not C++
#include <linux/virtio_ring.h>
#include <malloc.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "tests/fault_scenario.h"
#include "tests/saved_fixture.h"
#include "tests/small_guest.h"
#include "vm/machine.h"

namespace vmfork {
namespace {

constexpr ShellLimits kNoPool = {.ready = 0, .kept = 0};
constexpr ShellLimits kOneShell = {.ready = 0, .kept = 1};
const std::vector<std::byte> kControlBytes(64, std::byte{0x5e});

using VmPtr = std::shared_ptr<Vm>;

const auto kNothing = [] {};
// Neighbours of a page that come along are a matter of time and space.
const auto kFaultAround = [](const faults::Fault& fault) {
  return fault.request == UFFDIO_REGISTER;
};
// Copies of disks have a plainer way where the kernel's own does not work.
const auto kCopies = [](const faults::Fault& fault) {
  return std::strcmp(fault.call, "copy_file_range") == 0 || std::strcmp(fault.call, "lseek") == 0 ||
         fault.request == FICLONE || kFaultAround(fault);
};

// Layers whose pages are made ahead, and hold no zeros, are a matter of time and space.
const auto kLayerPages = [](const faults::Fault& fault) {
  return std::strcmp(fault.call, "fallocate") == 0 || kCopies(fault);
};

// A shell that waits without sockets has the fork make them.
const auto kSockets = [](const faults::Fault& fault) {
  return std::strcmp(fault.call, "socketpair") == 0 || kFaultAround(fault);
};

bool CountsOn(const Vm& vm) {
  const std::string then = vm.ConsoleTail();
  for (int i = 0; i < 4000; ++i) {
    if (vm.ConsoleTail() != then) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return false;
}

VmPtr BootCounter(const std::shared_ptr<Engine>& engine, uint32_t vcpus = 1) {
  auto vm = Boot(engine, kCount, std::make_shared<Observer>(), vcpus);
  EXPECT_TRUE(vm.has_value() && WaitForConsole(**vm, "01234567"));
  return vm ? *vm : nullptr;
}

constexpr uint64_t kRings = 0x170'0000, kBuffer = 0x170'1000;

// A page of the guest's memory with a receive queue in which one buffer waits (virtio 1.2, 2.7).
std::shared_ptr<const UniqueFd> ReceiveQueue() {
  struct {
    vring_desc descriptor{
        .addr = kBuffer, .len = kPageSize, .flags = VRING_DESC_F_WRITE, .next = 0};
    uint16_t available[3] = {0, 1, 0};  // flags, index, ring
  } queue;
  auto file = NewFile(kPageSize);
  EXPECT_EQ(::pwrite(file->Get(), &queue, sizeof queue, 0), ssize_t{sizeof queue});
  return file;
}

// Has the vsock device of a guest without a driver look like one with an open control connection.
void AddControlConnection(MachineState& state) {
  for (DeviceState& device : state.devices) {
    if (device.name != "vsock") continue;
    ByteWriter driver;  // mmio_transport.cc, Save(): registers, features, the first queue
    for (const uint32_t value : {0xfU, 0U, 0U, 0U, 0U, 0U}) driver.Put(value);
    driver.Put(uint64_t{1} << VIRTIO_F_VERSION_1);
    driver.Put<uint8_t>(1);
    driver.Put<uint32_t>(1);
    for (const uint64_t at : {kRings, kRings + 16, kRings + 64}) driver.Put(at);
    std::ranges::copy(driver.Bytes(), device.bytes.begin());
    // vsock_state.cc, Save(): at the end whether there is one, its port, what it owes, counters,
    // and a block of bytes. The guest has room for 64 KiB.
    device.bytes.back() = std::byte{1};
    ByteWriter control;
    for (const uint32_t value : {7U, 0U, 0U, 0U, 65536U, 0U, 0U, 0U, 0U}) control.Put(value);
    device.bytes.insert(device.bytes.end(), control.Bytes().begin(), control.Bytes().end());
  }
}

void AttachScratch(Vm& vm) {
  DiskOptions disk;
  disk.read_only = false;
  disk.scratch_bytes = 1 << 20;
  EXPECT_TRUE(vm.AttachDisk(1, disk).has_value());
}

// Of a guest with two vCPUs that counts, with a scratch disk and a control connection: its forks
// make all the calls that there are.
SnapshotPtr FullSnapshot(const std::shared_ptr<Engine>& engine) {
  auto vm = BootCounter(engine, 2);
  AttachScratch(*vm);
  auto frozen = vm->Freeze();
  EXPECT_TRUE(frozen.has_value());
  MachineState state = (*frozen)->State();
  WritePage(state.config.media[1].medium->Fd(), 0, 'd');
  AddControlConnection(state);
  auto image = Image::Overlay(*(*frozen)->GetImage(), {{kRings, kPageSize, ReceiveQueue(), 0}});
  return std::make_shared<Snapshot>(std::move(*image), std::move(state), "{}");
}

ForkOptions WithControl() {
  ForkOptions options;
  options.control_bytes = kControlBytes;
  return options;
}

// A clone of `snapshot` runs and has its channel.
void ExpectForkable(const std::shared_ptr<Engine>& engine, const SnapshotPtr& snapshot) {
  auto observer = std::make_shared<Observer>();
  auto clone = Vm::Fork(engine, snapshot, WithControl(), observer);
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  if (!clone) return;
  const auto control = (*clone)->TakeControl();
  char byte = 0;
  EXPECT_TRUE(control.has_value() && ::recv(control->Get(), &byte, 1, MSG_DONTWAIT) < 0 &&
              errno == EAGAIN);
  EXPECT_FALSE(observer->ended.load());
}

ShellShape ShapeOf(const Snapshot& snapshot) {
  return Machine::Shape(snapshot.State().config, snapshot.State().cpuid);
}

TEST(AForkIntoANewShellThatFailsLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const SnapshotPtr snapshot = FullSnapshot(engine);
  ExpectForkable(engine, snapshot);
  auto observer = std::make_shared<Observer>();
  const size_t failures = FailAtEachCall(
      kNothing, [&] { return Vm::Fork(engine, snapshot, WithControl(), observer); },
      [&] { ExpectForkable(engine, snapshot); }, kCopies);
  EXPECT_GT(failures, 40u);
  EXPECT_FALSE(observer->ended.load());
}

TEST(AForkIntoAReadyShellThatFailsLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot(engine);
  const ShellShape shape = ShapeOf(*snapshot);
  const auto fill = [&] { EXPECT_TRUE(engine->Shells().Fill(shape, 1).has_value()); };
  ExpectForkable(engine, snapshot);  // from now on shells wait with its memory
  auto observer = std::make_shared<Observer>();
  const size_t failures = FailAtEachCall(
      fill, [&] { return Vm::Fork(engine, snapshot, WithControl(), observer); },
      [&] { ExpectForkable(engine, snapshot); }, kCopies);
  EXPECT_GT(failures, 15u);
  EXPECT_FALSE(observer->ended.load());
  EXPECT_EQ(engine->Shells().Count().ready, 1u);
}

TEST(ATriedForkThatFailsLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  auto source = BootCounter(engine);
  auto snapshot = source->Freeze();
  source.reset();
  const ShellShape shape = ShapeOf(**snapshot);
  const auto fill = [&] { EXPECT_TRUE(engine->Shells().Fill(shape, 1).has_value()); };
  const auto observer = std::make_shared<Observer>();
  const auto attempt = [&] { return Vm::TryFork(engine, *snapshot, {}, observer); };
  EXPECT_TRUE(attempt().has_value());  // from now on shells wait with its memory
  const size_t failures = FailAtEachCall(
      fill, attempt,
      [&] {
        auto clone = attempt();
        EXPECT_TRUE(clone && *clone != nullptr && WaitForConsole(**clone, "01234567"));
      },
      kFaultAround);
  EXPECT_GT(failures, 3u);
}

// The source stands still: what its clone goes on with is what the source would have.
void ExpectFreezable(const std::shared_ptr<Engine>& engine, Vm& paused) {
  auto snapshot = paused.Freeze();
  EXPECT_TRUE(snapshot.has_value());
  if (!snapshot) return;
  auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  const char next = static_cast<char>('0' + (paused.ConsoleTail().back() - '0' + 1) % 8);
  EXPECT_EQ((*clone)->ConsoleTail().front(), next);
}

// A counter that has been frozen often enough for its image to stay as large as it is.
VmPtr FrozenCounter(const std::shared_ptr<Engine>& engine) {
  auto vm = BootCounter(engine);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(vm->Freeze().has_value() && CountsOn(*vm));
  return vm;
}

TEST(AFreezeThatFailsLeavesThePausedSourceWhole) {
  auto engine = TestEngine(kNoPool);
  auto vm = FrozenCounter(engine);
  AttachScratch(*vm);
  const auto pause = [&] { EXPECT_TRUE(vm->Pause().has_value()); };
  const size_t failures = FailAtEachCall(
      pause, [&] { return vm->Freeze(); },
      [&] {
        ExpectFreezable(engine, *vm);
        EXPECT_TRUE(vm->Resume().has_value() && CountsOn(*vm));
      },
      kLayerPages);
  EXPECT_GT(failures, 15u);
}

TEST(AFirstFreezeThatFailsLeavesThePausedSourceWhole) {
  auto engine = TestEngine(kNoPool);
  auto vm = BootCounter(engine);
  const auto pause = [&] { EXPECT_TRUE(vm->Pause().has_value()); };
  const size_t failures = FailAtEachCall(
      pause, [&] { return vm->Freeze(); },
      [&] {
        ExpectFreezable(engine, *vm);
        EXPECT_TRUE(vm->Resume().has_value() && CountsOn(*vm));
        vm = BootCounter(engine);
      },
      kLayerPages);
  EXPECT_GT(failures, 15u);
}

TEST(AFreezeThatFailsLetsTheSourceRunOn) {
  auto engine = TestEngine(kNoPool);
  auto vm = FrozenCounter(engine);
  const size_t failures = FailAtEachCall(
      kNothing, [&] { return vm->Freeze(); },
      [&] {
        EXPECT_TRUE(CountsOn(*vm));
        EXPECT_TRUE(vm->Pause().has_value());
        ExpectFreezable(engine, *vm);
        EXPECT_TRUE(vm->Resume().has_value());
      },
      kLayerPages);
  EXPECT_GT(failures, 15u);
}

TEST(AResetThatFailsLeavesTheCloneAsItWas) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot(engine);
  const ShellShape shape = ShapeOf(*snapshot);
  auto observer = std::make_shared<Observer>();
  Result<VmPtr> clone = nullptr;
  const auto fork = [&] {
    clone = nullptr;  // which waits for what it had been before a reset
    clone = Vm::Fork(engine, snapshot, {}, observer);
    if (!clone) std::fprintf(stderr, "  %s\n", clone.error().ToString().c_str());
    EXPECT_TRUE(clone.has_value());
    EXPECT_TRUE(engine->Shells().Fill(shape, 1).has_value());
  };
  const size_t failures = FailAtEachCall(
      fork,
      [&] {
        auto reset = (*clone)->Reset(WithControl());
        if (!reset) EXPECT_TRUE(CountsOn(**clone) && (*clone)->Reset(WithControl()).has_value());
        EXPECT_TRUE((*clone)->TakeControl().has_value());
        return reset;
      },
      kNothing, [](const faults::Fault& fault) { return fault.elsewhere || kCopies(fault); });
  EXPECT_GT(failures, 15u);
  EXPECT_FALSE(observer->ended.load());
}

TEST(AShellThatFailsToBeMadeLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const auto shape = std::make_shared<const ShellShape>(ShapeOf(*FullSnapshot(engine)));
  const auto build = [&] {
    StageClock clock;
    return Shell::Build(*engine, shape, nullptr, clock);
  };
  const size_t failures =
      FailAtEachCall(kNothing, build, [&] { EXPECT_TRUE(build().has_value()); }, kFaultAround);
  EXPECT_GT(failures, 40u);
}

TEST(AShellThatFailsToBeRecycledLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const ShellShape shape = ShapeOf(*FullSnapshot(engine));
  Result<std::unique_ptr<Shell>> shell = nullptr;
  const size_t failures = FailAtEachCall(
      [&] {
        StageClock clock;
        shell = nullptr;
        shell = engine->Shells().Take(shape, clock);
        EXPECT_TRUE(shell && (*shell)->View().Show(Image::Zero(shape.memory_bytes)).has_value());
      },
      [&] {
        return (*shell)->Recycle(
            {.cores = (*shell)->Fresh(), .image = Image::Zero(shape.memory_bytes), .ahead = {}});
      },
      kNothing, kSockets);
  EXPECT_GT(failures, 10u);
}

TEST(APoolThatCannotRefillDoesSoLater) {
  auto engine = TestEngine({.ready = 1, .kept = 1});
  const ShellShape shape = ShapeOf(*FullSnapshot(engine));
  const auto wait_for = [](const auto& condition) {
    bool holds = condition();
    for (int i = 0; i < 2000 && !holds; ++i, holds = condition())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(holds);
  };
  StageClock clock;
  wait_for([&] { return engine->Shells().Count().ready == 1; });
  faults::ArmIoctl(KVM_CREATE_VCPU, ENOMEM);
  // One that was begun before may still come: it is taken away as well.
  wait_for([&] {
    std::ignore = engine->Shells().TryTake(shape, clock);
    return faults::Given();
  });
  EXPECT_TRUE(faults::Disarm().has_value());
  // Whoever finds the pool empty sets it going.
  wait_for([&] {
    EXPECT_TRUE(engine->Shells().Take(shape, clock).has_value());
    return engine->Shells().Count().ready == 1;
  });
}

TEST(ALoadThatFailsLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const Folder folder;
  auto source = BootCounter(engine);
  auto root = source->Freeze();
  Saved(**root, folder / "root");
  EXPECT_TRUE(CountsOn(*source));
  AttachScratch(*source);
  auto branch = source->Freeze();
  source.reset();
  Saved(**branch, folder / "branch", On(*root));
  const PageRun touched{0, kPageSize};
  EXPECT_TRUE((*branch)->RecordWorkingSet(std::span(&touched, 1)).has_value());
  const auto load = [&] {
    return Snapshot::Load(*engine, folder / "branch", {.key = {}, .prefetch = true});
  };
  const size_t failures = FailAtEachCall(
      kNothing, load,
      [&] {
        auto loaded = load();
        EXPECT_TRUE(loaded.has_value());
        if (!loaded) return;
        auto clone = Vm::Fork(engine, *loaded, {}, std::make_shared<Observer>());
        EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
      },
      kFaultAround);
  EXPECT_GT(failures, 15u);
}

TEST(AProcessorThatCannotRunEndsItsGuest) {
  auto engine = TestEngine(kOneShell);
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(engine, kCount, observer);
  EXPECT_TRUE(vm.has_value() && WaitForConsole(**vm, "01234567"));
  faults::ArmIoctl(KVM_RUN, EIO);
  EXPECT_TRUE((*vm)->Pause().has_value());
  EXPECT_TRUE((*vm)->Resume().has_value());
  observer->ended.wait(false);
  EXPECT_TRUE(faults::Disarm().has_value());
  EXPECT_TRUE(observer->code == ErrorCode::kSystem);
  (*vm)->Destroy();
  EXPECT_EQ(engine->Shells().Count().ready, 0u);
}

}  // namespace
}  // namespace vmfork

int main(int argc, char** argv) {
  // A heap of its own for each thread would hide what is looked for.
  ::mallopt(M_ARENA_MAX, 1);
  return vmfork::testing::RunAll(argc, argv);
}
