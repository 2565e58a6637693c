// Forks, snapshots, resets, saves and loads on /dev/kvm with each allocation failing in turn: an
// error that says so, or success without what could be left out; nothing left behind, the source
// runs on, and the same call works afterwards. Of the thread that makes the call: what devices,
// vCPUs and reapers need while they serve guests is not covered.
#include <malloc.h>

#include "tests/fault_guests.h"
#include "tests/fault_scenario.h"

namespace vmfork {
namespace {

const auto kNothing = [] {};

// Returns how often the call failed.
template <typename Prepare, typename Attempt, typename Check>
size_t FailAtEachAllocation(Prepare prepare, Attempt attempt, Check check) {
  size_t failures = 0;
  const auto counted = [&] {
    auto result = attempt();
    if (!result) {
      ++failures;
      EXPECT_TRUE(result.error().code == ErrorCode::kNoMemory);
    }
    return result;
  };
  FailAtEachCall(
      prepare, counted, check, [](const faults::Fault&) { return true; }, faults::ArmHeap);
  return failures;
}

TEST(AnEngineWithoutMemoryLeavesNothing) {
  const EngineOptions options{.scratch_directory = {}, .shells = kOneShell};
  EXPECT_TRUE(Engine::Create(options).has_value());  // stacks of threads that ended are kept
  const size_t failures = FailAtEachAllocation(
      kNothing, [&] { return Engine::Create(options); },
      [&] { EXPECT_TRUE(Engine::Create(options).has_value()); });
  EXPECT_GT(failures, 20u);
}

TEST(AForkIntoANewShellWithoutMemoryLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const SnapshotPtr snapshot = FullSnapshot();
  ExpectForkable(engine, snapshot);
  auto observer = std::make_shared<Observer>();
  const ForkOptions options = WithControl();
  const size_t failures = FailAtEachAllocation(
      kNothing, [&] { return Vm::Fork(engine, snapshot, options, observer); },
      [&] { ExpectForkable(engine, snapshot); });
  EXPECT_GT(failures, 40u);
  EXPECT_FALSE(observer->ended.load());
}

TEST(AForkIntoAReadyShellWithoutMemoryLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot();
  const SharedShape shape = ShapeOf(*snapshot);
  // As those that are made in the background: with memory and sockets.
  const auto fill = [&] {
    EXPECT_TRUE(engine->Shells().Fill(shape, 1, snapshot.get()).has_value());
  };
  ExpectForkable(engine, snapshot);  // from now on shells wait with its memory
  auto observer = std::make_shared<Observer>();
  const ForkOptions options = WithControl();
  const size_t failures = FailAtEachAllocation(
      fill, [&] { return Vm::Fork(engine, snapshot, options, observer); },
      [&] { ExpectForkable(engine, snapshot); });
  EXPECT_GT(failures, 8u);
  EXPECT_EQ(engine->Shells().Count().ready, 1u);
}

TEST(ATriedForkWithoutMemoryLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = CounterSnapshot();
  const auto fill = [&] {
    EXPECT_TRUE(engine->Shells().Fill(ShapeOf(*snapshot), 1, snapshot.get()).has_value());
  };
  const auto observer = std::make_shared<Observer>();
  const auto attempt = [&] { return Vm::TryFork(engine, snapshot, {}, observer); };
  const size_t failures = FailAtEachAllocation(fill, attempt, [&] {
    auto clone = Vm::Fork(engine, snapshot, {}, observer);
    EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  });
  EXPECT_GT(failures, 6u);
}

TEST(AFreezeWithoutMemoryLetsTheSourceRunOn) {
  auto engine = TestEngine(kNoPool);
  auto vm = FrozenCounter(engine);
  const auto attach = [&] {
    std::ignore = vm->DetachDisk(1);  // what it was frozen with stays below it
    AttachScratch(*vm);
  };
  const size_t failures = FailAtEachAllocation(
      attach, [&] { return vm->Freeze(); },
      [&] {
        EXPECT_TRUE(CountsOn(*vm));
        EXPECT_TRUE(vm->Pause().has_value());
        ExpectFreezable(engine, *vm);
        EXPECT_TRUE(vm->Resume().has_value());
      });
  EXPECT_GT(failures, 20u);
}

TEST(AResetWithoutMemoryLeavesTheCloneRunning) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot();
  const SharedShape shape = ShapeOf(*snapshot);
  auto observer = std::make_shared<Observer>();
  Result<VmPtr> clone = nullptr;
  bool at_once = false;
  const auto fork = [&] {
    clone = nullptr;  // which waits for what it had been before a reset
    clone = Vm::Fork(engine, snapshot, {}, observer);
    EXPECT_TRUE(clone.has_value());
    EXPECT_TRUE(engine->Shells().Fill(shape, 1, snapshot.get()).has_value());
  };
  const ForkOptions options = WithControl();
  const auto reset = [&]() -> Result<void> {
    if (!at_once) return (*clone)->Reset(options);
    auto done = (*clone)->TryReset(options, [] {});
    return done ? Result<void>() : std::unexpected(done.error());
  };
  for (const bool tried : {false, true}) {
    at_once = tried;
    const size_t failures = FailAtEachAllocation(fork, reset, [&] {
      EXPECT_TRUE(CountsOn(**clone));
      EXPECT_TRUE((*clone)->Reset(WithControl()).has_value() && CountsOn(**clone));
    });
    EXPECT_GT(failures, 8u);
  }
  EXPECT_FALSE(observer->ended.load());
}

TEST(AShellThatThereIsNoMemoryForLeavesNothing) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = CounterSnapshot();  // of no disk: shells can wait with all devices
  const SharedShape shape = ShapeOf(*snapshot);
  StageClock clock;
  const auto fill = [&] { return engine->Shells().Fill(shape, 1, snapshot.get()); };
  const size_t failures =
      FailAtEachAllocation([&] { std::ignore = engine->Shells().TryTake(shape, clock); }, fill,
                           [&] { EXPECT_TRUE(fill().has_value()); });
  EXPECT_GT(failures, 40u);
}

TEST(AMachineGivesItsShellBackOrClosesItWithoutMemory) {
  auto engine = TestEngine(kOneShell);
  const SnapshotPtr snapshot = FullSnapshot();
  Result<VmPtr> clone = nullptr;
  FailAtEachAllocation(
      [&] {
        clone = nullptr;
        clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
        EXPECT_TRUE(clone.has_value());
      },
      [&] {
        (*clone)->Destroy();
        return Result<void>();
      },
      [&] { EXPECT_LE(engine->Shells().Count().ready, 1u); });
}

// A snapshot on disk that differs from another one, with a working set.
struct SavedPair {
  explicit SavedPair(const std::shared_ptr<Engine>& engine) {
    auto source = BootCounter(engine);
    root = *source->Freeze();
    Saved(*root, folder / "root");
    EXPECT_TRUE(CountsOn(*source));
    AttachScratch(*source);
    branch = *source->Freeze();
    Saved(*branch, folder / "branch", On(root));
    const PageRun touched{0, kPageSize};
    EXPECT_TRUE(branch->RecordWorkingSet(std::span(&touched, 1)).has_value());
  }
  const Folder folder;
  SnapshotPtr root, branch;
};

TEST(ASaveWithoutMemoryLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const SavedPair saved(engine);
  const std::string path = saved.folder / "again";
  const auto save = [&] { return saved.branch->Save(path, On(saved.root)); };
  bool was_saved = false;
  const size_t failures =
      FailAtEachAllocation([&] { std::filesystem::remove_all(path); },
                           [&] {
                             auto report = save();
                             was_saved = report.has_value();
                             return report;
                           },
                           [&] {
                             EXPECT_EQ(EntriesOf((saved.folder / "").c_str()), was_saved ? 3u : 2u);
                             std::filesystem::remove_all(path);
                             EXPECT_TRUE(save().has_value());
                           });
  EXPECT_GT(failures, 40u);
  EXPECT_TRUE(ShowsTheSame(Opened(path)->memory.image, saved.branch->GetImage()));
}

TEST(ALoadWithoutMemoryLeavesNothing) {
  auto engine = TestEngine(kNoPool);
  const SavedPair saved(engine);
  const std::string path = saved.folder / "branch";
  const auto load = [&] { return Snapshot::Load(*engine, path, {.key = {}, .prefetch = true}); };
  const size_t failures = FailAtEachAllocation(kNothing, load, [&] {
    auto loaded = load();
    EXPECT_TRUE(loaded.has_value());
    if (!loaded) return;
    auto clone = Vm::Fork(engine, *loaded, {}, std::make_shared<Observer>());
    EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  });
  EXPECT_GT(failures, 40u);
}

TEST(AVerifyWithoutMemoryFindsNoDamage) {
  auto engine = TestEngine(kNoPool);
  const SavedPair saved(engine);
  const auto verify = [&] { return saved.branch->Verify(0, VerifyMode::kInPassing); };
  const size_t failures = FailAtEachAllocation(kNothing, verify, [&] {
    EXPECT_TRUE(verify().has_value() && saved.branch->CheckSound("fork").has_value());
  });
  EXPECT_GT(failures, 5u);
}

}  // namespace
}  // namespace vmfork

int main(int argc, char** argv) {
  // A heap of its own for each thread would hide what is looked for.
  ::mallopt(M_ARENA_MAX, 1);
  return vmfork::testing::RunAll(argc, argv);
}
