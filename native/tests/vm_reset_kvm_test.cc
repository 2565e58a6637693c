// Resets on /dev/kvm against all that ends a VM meanwhile, on the engine's own threads.
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#include "tests/small_guest.h"
#include "tests/test.h"

namespace vmfork {
namespace {

constexpr size_t kClones = 4;
constexpr ShellLimits kNoPool = {.ready = 0, .kept = 0};

// Counts down what others do.
class Pending {
 public:
  explicit Pending(size_t count) : count_(count) {}
  void Done() {
    std::lock_guard lock(mutex_);
    --count_;
    changed_.notify_all();
  }
  // Threads that wait for each other cannot be taken back: then this process is over.
  void WaitOrEnd(const char* what) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, std::chrono::seconds(60), [this] { return count_ == 0; })) return;
    std::fprintf(stderr, "  %s: %zu never ended\nFAILED\n", what, count_);
    ::_exit(1);
  }

 private:
  std::mutex mutex_;  // guards count_
  std::condition_variable changed_;
  size_t count_;
};

std::shared_ptr<Snapshot> CounterSnapshot(const std::shared_ptr<Engine>& engine) {
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(vm.has_value() && WaitForConsole(**vm, "01234567"));
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE(snapshot.has_value());
  return snapshot ? *snapshot : nullptr;
}

// Without shells that wait a reset makes one, which leaves the time for a destroy to come.
TEST(ClonesMayBeDestroyedWhileTheyAreReset) {
  auto engine = TestEngine(kNoPool);
  const auto snapshot = CounterSnapshot(engine);
  for (int round = 0; round < 15; ++round) {
    std::vector<std::shared_ptr<Vm>> clones;
    for (size_t i = 0; i < kClones; ++i) {
      auto clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
      EXPECT_TRUE(clone.has_value());
      if (clone) clones.push_back(std::move(*clone));
    }
    Pending begun(clones.size()), ended(2 * clones.size());
    for (const auto& clone : clones) {
      engine->Workers().Submit([&, vm = clone.get()] {
        begun.Done();
        const auto reset = vm->Reset({});
        EXPECT_TRUE(reset || reset.error().code == ErrorCode::kGone);
        ended.Done();
      });
    }
    begun.WaitOrEnd("beginning of a reset");
    for (const auto& clone : clones) {
      engine->Reapers().Submit([&, vm = clone.get()] {
        vm->Destroy();
        EXPECT_TRUE(vm->Memory().error().code == ErrorCode::kGone);
        ended.Done();
      });
    }
    ended.WaitOrEnd("reset and destroy");
  }
}

// Nobody but the reset itself may have to take down what it has replaced.
TEST(ResetsInARowNeedNoReaper) {
  auto engine = TestEngine(kNoPool);
  const auto snapshot = CounterSnapshot(engine);
  auto clone = Vm::Fork(engine, snapshot, {}, std::make_shared<Observer>());
  Pending held(2), resets(1);
  std::mutex hold;
  {
    const std::lock_guard lock(hold);
    for (int i = 0; i < 2; ++i) {
      engine->Reapers().Submit([&] {
        const std::lock_guard wait(hold);
        held.Done();
      });
    }
    engine->Workers().Submit([&] {
      for (int i = 0; i < 3; ++i) EXPECT_TRUE((*clone)->Reset({}).has_value());
      (*clone)->Destroy();
      resets.Done();
    });
    resets.WaitOrEnd("resets");
  }
  held.WaitOrEnd("reapers");
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
