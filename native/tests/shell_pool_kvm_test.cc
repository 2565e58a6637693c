// The pool of shells under pressure: bounded whatever comes and goes, refilled in the background,
// never needed, and closed at any moment.
#include <malloc.h>

#include <algorithm>
#include <barrier>
#include <string_view>
#include <thread>

#include "tests/fault_guests.h"
#include "tests/held.h"

namespace vmfork {
namespace {

StageClock clock_of_nobody;

// Waits for what the pool's thread does in its own time.
template <typename Condition>
bool Eventually(Condition holds) {
  for (int i = 0; i < 5000 && !holds(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return holds();
}

bool HasStage(const Vm& vm, std::string_view name) {
  return std::ranges::any_of(vm.Stages(),
                             [name](const Stage& stage) { return name == stage.name; });
}

TEST(NoMoreThanAreKeptEverWait) {
  constexpr size_t kKept = 3, kAtOnce = 6, kRounds = 10;
  auto engine = TestEngine({.ready = 2, .kept = kKept});
  const SnapshotPtr snapshot = CounterSnapshot(engine);
  std::atomic<size_t> most_ready = 0;
  const auto look = [&] {
    const size_t ready = engine->Shells().Count().ready;
    for (size_t most = most_ready; ready > most && !most_ready.compare_exchange_weak(most, ready);)
      continue;
  };
  // All have one, then all let go of theirs at once, while the pool is being refilled.
  std::barrier all_there(kAtOnce);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < kAtOnce; ++i) {
      threads.emplace_back([&] {
        for (size_t round = 0; round < kRounds; ++round) {
          auto clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
          EXPECT_TRUE(clone.has_value());
          all_there.arrive_and_wait();
          if (clone) (*clone)->Destroy();
          look();
          all_there.arrive_and_wait();
        }
      });
    }
  }
  EXPECT_EQ(most_ready.load(), kKept);
  const ShellPool::Counts counts = engine->Shells().Count();
  EXPECT_GE(counts.ready, size_t{2});
  // Of each round only so many could be kept.
  EXPECT_LE(counts.reused, kKept * (kRounds + 1));
  EXPECT_GE(counts.built, uint64_t{kAtOnce});
}

TEST(WhatIsTakenIsReplacedInTheBackground) {
  constexpr size_t kReady = 2;
  auto engine = TestEngine({.ready = kReady, .kept = 4});
  ShellPool& shells = engine->Shells();
  const SharedShape shape = ShapeOf(*CounterSnapshot(engine));
  std::vector<std::unique_ptr<Shell>> taken;
  for (size_t count = 1; count <= 5; ++count) {
    EXPECT_TRUE(Eventually([&] { return shells.Count().ready >= kReady; }));
    taken.push_back(shells.TryTake(shape, clock_of_nobody));
    EXPECT_TRUE(taken.back() != nullptr);
  }
  EXPECT_TRUE(Eventually([&] { return shells.Count().ready == kReady; }));
  // As many as are missing, and no more: those that are taken, those that wait, and of the guest
  // that booted one that may have come back.
  EXPECT_LE(shells.Count().built, taken.size() + kReady + 1);
}

TEST(AForkThatFindsNoShellMakesItsOwn) {
  auto engine = TestEngine({.ready = 0, .kept = 1});
  const SnapshotPtr snapshot = CounterSnapshot(engine);
  const auto fork = [&] {
    auto clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
    EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
    return clone.value_or(nullptr);
  };
  EXPECT_EQ(engine->Shells().Count().ready, 1u);  // the template's
  const VmPtr first = fork();
  EXPECT_TRUE(HasStage(*first, "shell") && !HasStage(*first, "create_vm"));
  const uint64_t built = engine->Shells().Count().built;
  auto none = Vm::TryFork(engine, snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(none.has_value() && *none == nullptr);
  std::vector<VmPtr> more;
  for (int i = 0; i < 3; ++i) more.push_back(fork());
  for (const VmPtr& clone : more)
    EXPECT_TRUE(HasStage(*clone, "create_vm") && !HasStage(*clone, "shell"));
  EXPECT_EQ(engine->Shells().Count().built, built + 3);
  more.clear();
  EXPECT_EQ(engine->Shells().Count().ready, 1u);
}

TEST(ForksThatOutrunTheRefillSucceed) {
  constexpr size_t kForks = 12;
  auto engine = TestEngine({.ready = 1, .kept = 2});
  const SnapshotPtr snapshot = CounterSnapshot(engine);
  std::vector<VmPtr> clones;
  for (size_t i = 0; i < kForks; ++i) {
    auto clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
    EXPECT_TRUE(clone.has_value());
    clones.push_back(*clone);
  }
  for (const VmPtr& clone : clones) EXPECT_TRUE(CountsOn(*clone));
  clones.clear();
  EXPECT_LE(engine->Shells().Count().ready, 2u);
}

TEST(APoolThatClosesDuringARefillLeavesNothing) {
  constexpr size_t kReady = 16;
  const SharedShape shape = ShapeOf(*CounterSnapshot());
  const Held before = HeldNow();
  for (uint64_t built = 1; built <= 8; ++built) {
    auto engine = TestEngine({.ready = kReady, .kept = kReady});
    std::ignore = engine->Shells().TryTake(shape, clock_of_nobody);  // sets it going
    EXPECT_TRUE(Eventually([&] { return engine->Shells().Count().built >= built; }));
    EXPECT_LT(engine->Shells().Count().ready, kReady);
    engine.reset();
    ExpectNoMoreThan(before, "close");
  }
}

TEST(RoundsOfForksLeaveNoMoreThanThePoolKeeps) {
  auto engine = TestEngine({.ready = 2, .kept = 3});
  const SnapshotPtr snapshot = CounterSnapshot(engine);
  const auto round = [&] {
    std::vector<VmPtr> clones;
    for (int i = 0; i < 5; ++i)
      clones.push_back(*Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>()));
    clones.clear();
    EXPECT_TRUE(engine->Shells().Fill(ShapeOf(*snapshot), 3, snapshot.get()).has_value());
    EXPECT_EQ(engine->Shells().Count().ready, 3u);
  };
  for (int i = 0; i < 2; ++i) round();
  const Held before = HeldNow();
  for (int i = 0; i < 20; ++i) round();
  ExpectNoMoreThan(before, "20 rounds");
}

TEST(ForkWithoutWaitingNeedsAReadyShell) {
  auto engine = TestEngine({.ready = 0, .kept = 4});
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  auto clone = Vm::TryFork(engine, *snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && *clone == nullptr);
  (*vm)->Destroy();
  clone = Vm::TryFork(engine, *snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && *clone != nullptr && WaitForConsole(**clone, "01234567"));
}

TEST(ForkOfAGuestWithADiskNeedsAShellThatWaitsWithOne) {
  auto engine = TestEngine({.ready = 0, .kept = 4});
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  auto plain = (*vm)->Freeze();
  DiskOptions disk;
  disk.scratch_bytes = 1 << 20;
  EXPECT_TRUE((*vm)->AttachDisk(1, disk).has_value());
  auto with_disk = (*vm)->Freeze();
  (*vm)->Destroy();
  const auto try_fork = [&] {
    auto clone = Vm::TryFork(engine, *with_disk, {}, std::make_shared<Observer>());
    EXPECT_TRUE(clone.has_value());
    return clone.value_or(nullptr);
  };
  EXPECT_TRUE(Vm::Fork(engine, *plain, {}, std::make_shared<Observer>()).has_value());
  EXPECT_TRUE(try_fork() == nullptr);  // a shell is ready, for the other snapshot
  EXPECT_EQ(engine->Shells().Count().ready, 1u);
  EXPECT_TRUE(Vm::Fork(engine, *with_disk, {}, std::make_shared<Observer>()).has_value());
  // Each has a disk of its own, which is no longer that of a shell.
  const auto one = try_fork();
  EXPECT_TRUE(one != nullptr && WaitForConsole(*one, "01234567"));
  EXPECT_TRUE(try_fork() == nullptr);
  const auto frozen = one->Freeze();
  EXPECT_TRUE(frozen.has_value());
  const auto& of_clone = (*frozen)->State().config.media[1].medium;
  EXPECT_FALSE(of_clone == (*with_disk)->State().config.media[1].medium);
}

}  // namespace
}  // namespace vmfork

int main(int argc, char** argv) {
  // A heap of its own for each thread would hide what is looked for.
  ::mallopt(M_ARENA_MAX, 1);
  return vmfork::testing::RunAll(argc, argv);
}
