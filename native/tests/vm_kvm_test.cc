// Whole machines on /dev/kvm with guests of a few bytes of machine code: boot, ends of every kind,
// pause, fork, teardown. Small enough to run under the sanitizers. Without /dev/kvm it says so and
// fails: scripts/test.mjs decides whether to run it.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/folder.h"
#include "tests/held.h"
#include "tests/small_guest.h"
#include "tests/test.h"
#include "vm/vm.h"

namespace vmfork {
namespace {

ErrorCode EndOf(const Code& code) {
  auto engine = TestEngine();
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(engine, code, observer);
  EXPECT_TRUE(vm.has_value());
  observer->ended.wait(false);
  return observer->code;
}

TEST(GuestPrintsToTheConsole) {
  auto vm = Boot(TestEngine(), Print("hello from a guest") + kHalt);
  EXPECT_TRUE(vm.has_value());
  EXPECT_TRUE(WaitForConsole(**vm, "hello from a guest"));
}

TEST(TripleFaultEndsTheVmAsACrash) { EXPECT_TRUE(EndOf(kUndefined) == ErrorCode::kGuestCrash); }
TEST(ResetLineEndsTheVmAsAReset) { EXPECT_TRUE(EndOf(kReset + kSpin) == ErrorCode::kGuestReset); }
TEST(PanicTextMakesAResetAPanic) {
  EXPECT_TRUE(EndOf(Print("Kernel panic - not syncing: no init\n") + kReset + kSpin) ==
              ErrorCode::kGuestPanic);
}

TEST(DestroyEndsASpinningGuestAndMayBeRepeated) {
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(TestEngine(), Print("x") + kSpin, observer, 2);
  EXPECT_TRUE(WaitForConsole(**vm, "x"));
  (*vm)->Destroy();
  (*vm)->Destroy();
  EXPECT_FALSE(observer->ended.load());
  EXPECT_EQ((*vm)->ConsoleTail(), "x");
  EXPECT_TRUE((*vm)->Pause().error().code == ErrorCode::kGone);
  EXPECT_TRUE((*vm)->Memory().error().code == ErrorCode::kGone);
}

TEST(PausedGuestStandsStill) {
  auto vm = Boot(TestEngine(), kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  const std::string before = (*vm)->ConsoleTail();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE((*vm)->ConsoleTail() == before);
  EXPECT_TRUE((*vm)->Resume().has_value());
  for (int i = 0; i < 2000 && (*vm)->ConsoleTail() == before; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE((*vm)->ConsoleTail() == before);
}

TEST(ClonesCountOnFromWhereTheyWereForked) {
  auto engine = TestEngine();
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  const std::string source = (*vm)->ConsoleTail();
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE(snapshot.has_value());
  const char next = static_cast<char>('0' + (source.back() - '0' + 1) % 8);
  for (int i = 0; i < 3; ++i) {
    auto observer = std::make_shared<Observer>();
    auto machine = Vm::Fork(engine, *snapshot, {}, observer);
    EXPECT_TRUE(machine.has_value());
    EXPECT_TRUE(WaitForConsole(**machine, "01234567"));
    EXPECT_EQ((*machine)->ConsoleTail().substr(0, 1), std::string(1, next));
    auto memory = (*machine)->Memory();
    EXPECT_TRUE(memory.has_value() && memory->owned >= 4096 && memory->owned < (1 << 20));
  }
  EXPECT_TRUE((*vm)->ConsoleTail() == source);
}

TEST(SavedSnapshotLoadsAndRuns) {
  auto engine = TestEngine();
  const Folder folder;
  const std::string path = folder / "snapshot";
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  auto snapshot = (*vm)->Freeze();
  SaveOptions options;
  options.metadata = "{}";
  EXPECT_TRUE((*snapshot)->Save(path, options).has_value());
  EXPECT_FALSE((*snapshot)->Save(path, options).has_value());
  auto loaded = Snapshot::Load(*engine, path, {});
  EXPECT_TRUE(loaded.has_value());
  EXPECT_EQ((*loaded)->Metadata(), "{}");
  auto clone = Vm::Fork(engine, *loaded, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  EXPECT_EQ(::truncate((path + "/memory").c_str(), 4096), 0);
  EXPECT_TRUE(Snapshot::Load(*engine, path, {}).error().code == ErrorCode::kSnapshotInvalid);
}

TEST(ImpossibleMemorySizesAreRefused) {
  BootOptions options;
  options.kernel_path = "/dev/null";
  for (uint64_t bytes :
       {uint64_t{0}, uint64_t{1} << 20, uint64_t{1} << 40, (uint64_t{64} << 20) + 1}) {
    options.memory_bytes = bytes;
    EXPECT_TRUE(Vm::Boot(TestEngine(), options, nullptr).error().code == ErrorCode::kMemorySize);
  }
}

TEST(MissingKernelIsNamed) {
  BootOptions options;
  options.kernel_path = "/nowhere/vmlinux";
  options.memory_bytes = 32 << 20;
  auto vm = Vm::Boot(TestEngine(), options, nullptr);
  EXPECT_TRUE(vm.error().code == ErrorCode::kKernelNotFound);
  EXPECT_TRUE(vm.error().ToString().find("/nowhere/vmlinux") != std::string::npos);
}

TEST(ManyForksLeaveNothingBehind) {
  auto engine = TestEngine({.ready = 0, .kept = 1});  // nothing made in the background
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "0123"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  auto snapshot = (*vm)->Freeze();
  auto fork_some = [&](int rounds) {
    for (int i = 0; i < rounds; ++i)
      EXPECT_TRUE(Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>()).has_value());
  };
  fork_some(3);
  const Held before = HeldNow();
  fork_some(20);
  ExpectNoMoreThan(before, "twenty forks");
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
