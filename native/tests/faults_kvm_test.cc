// Forks, snapshots and resets on /dev/kvm with each call to the kernel failing in turn: an error
// that says which, nothing left behind, the source runs on, and the same call works afterwards.
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <malloc.h>

#include <cstring>

#include "tests/fault_guests.h"
#include "tests/fault_scenario.h"

namespace vmfork {
namespace {

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

TEST(AForkIntoANewShellThatFailsLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const SnapshotPtr snapshot = FullSnapshot();
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
  const SnapshotPtr snapshot = FullSnapshot();
  const SharedShape shape = ShapeOf(*snapshot);
  const auto fill = [&] { EXPECT_TRUE(engine->Shells().Fill(shape, 1).has_value()); };
  ExpectForkable(engine, snapshot);  // from now on shells wait with its memory
  auto observer = std::make_shared<Observer>();
  const size_t failures = FailAtEachCall(
      fill, [&] { return Vm::Fork(engine, snapshot, WithControl(), observer); },
      [&] { ExpectForkable(engine, snapshot); }, kCopies);
  EXPECT_GT(failures, 4u);
  EXPECT_FALSE(observer->ended.load());
  EXPECT_EQ(engine->Shells().Count().ready, 1u);
}

TEST(ATriedForkThatFailsLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = CounterSnapshot();
  const auto fill = [&] {
    EXPECT_TRUE(engine->Shells().Fill(ShapeOf(*snapshot), 1, snapshot.get()).has_value());
  };
  const auto observer = std::make_shared<Observer>();
  const auto attempt = [&] { return Vm::TryFork(engine, snapshot, {}, observer); };
  const size_t failures = FailAtEachCall(
      fill, attempt,
      [&] {
        auto clone = attempt();
        EXPECT_TRUE(clone && *clone != nullptr && WaitForConsole(**clone, "01234567"));
      },
      kFaultAround);
  EXPECT_GT(failures, 2u);
}

TEST(AFreezeThatFailsLeavesThePausedSourceWhole) {
  auto engine = TestEngine(kNoPool);
  auto vm = FrozenCounter(engine);
  const auto pause = [&] {
    std::ignore = vm->DetachDisk(1);  // what it was frozen with stays below it
    AttachScratch(*vm);
    EXPECT_TRUE(vm->Pause().has_value());
  };
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
  const SnapshotPtr snapshot = FullSnapshot();
  const SharedShape shape = ShapeOf(*snapshot);
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
  EXPECT_GT(failures, 4u);
  EXPECT_FALSE(observer->ended.load());
}

TEST(AShellThatFailsToBeMadeLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const auto shape = ShapeOf(*FullSnapshot());
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
  const SharedShape shape = ShapeOf(*FullSnapshot());
  Result<std::unique_ptr<Shell>> shell = nullptr;
  const size_t failures = FailAtEachCall(
      [&] {
        StageClock clock;
        shell = nullptr;
        shell = engine->Shells().Take(shape, clock);
        EXPECT_TRUE(shell && (*shell)->View().Show(Image::Zero(shape->memory_bytes)).has_value());
      },
      [&] {
        return (*shell)->Recycle(
            {.cores = (*shell)->Fresh(), .image = Image::Zero(shape->memory_bytes), .ahead = {}});
      },
      kNothing, kSockets);
  EXPECT_GT(failures, 10u);
}

TEST(WhatAShellCannotWaitWithIsTheForksToMake) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot();
  ExpectForkable(engine, snapshot);
  StageClock clock;
  size_t complete = 0;
  const auto take = [&] { return engine->Shells().TryTake(ShapeOf(*snapshot), clock); };
  const size_t failures = FailAtEachCall(
      take, [&] { return engine->Shells().Fill(ShapeOf(*snapshot), 1, snapshot.get()); },
      [&] {
        // Nothing, or with a disk and all devices, or without them.
        auto shell = take();
        if (shell != nullptr && shell->WaitsFor(snapshot->State())) ++complete;
        if (shell != nullptr) engine->Shells().Give(std::move(shell), false);
        ExpectForkable(engine, snapshot);
      },
      [](const faults::Fault& fault) {
        return kSockets(fault) || std::strcmp(fault.call, "memfd_create") == 0 ||
               std::strcmp(fault.call, "ftruncate") == 0 || std::strcmp(fault.call, "mmap") == 0 ||
               fault.request == KVM_IOEVENTFD;
      });
  EXPECT_GT(failures, 50u);
  EXPECT_LT(complete, failures);
}

TEST(APoolThatCannotRefillDoesSoLater) {
  auto engine = TestEngine({.ready = 1, .kept = 1});
  const SharedShape shape = ShapeOf(*FullSnapshot());
  const auto wait_for = [](const auto& condition) {
    bool holds = condition();
    for (int i = 0; i < 2000 && !holds; ++i, holds = condition())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(holds);
  };
  StageClock clock;
  EXPECT_TRUE(engine->Shells().Take(shape, clock).has_value());
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
