// Saving and loading when the host runs out: each call of a save that fails, each descriptor that
// cannot be had, and a file that cannot grow. A typed error, nothing left behind, and the same call
// works afterwards.
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>

#include "snapshot/working_set.h"
#include "tests/fault_scenario.h"
#include "tests/saved_fixture.h"

namespace vmfork {
namespace {

// A lower limit of this process for as long as it lives.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t most) : resource_(resource) {
    EXPECT_EQ(::getrlimit(resource_, &before_), 0);
    const rlimit lower{.rlim_cur = most, .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(resource_, &lower), 0);
  }
  ~Limit() { EXPECT_EQ(::setrlimit(resource_, &before_), 0); }

 private:
  __rlimit_resource resource_;
  rlimit before_{};
};

// The number that the next descriptor gets.
rlim_t NextFile() {
  const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return static_cast<rlim_t>(fd.Get());
}

// Calls `attempt` with room for 0, 1, 2 … more descriptors until it succeeds; returns how often it
// failed. `check` is called after each failure.
template <typename Attempt, typename Check>
size_t FailuresFor(Attempt attempt, Check check) {
  for (size_t room = 0; room < 100; ++room) {
    const size_t before = EntriesOf("/proc/self/fd");
    const rlim_t next = NextFile();
    {
      const Limit limit(RLIMIT_NOFILE, next + room);
      const auto result = attempt();
      if (result) return room;
      EXPECT_TRUE(result.error().code == ErrorCode::kTooManyFiles);
    }
    EXPECT_EQ(EntriesOf("/proc/self/fd"), before);
    check();
  }
  EXPECT_TRUE(false);
  return 0;
}

TEST(LoadingAChainWithoutDescriptorsFailsCleanly) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  Saved(*root, folder / "root");
  Saved(*Branch(*root, {{1, 'x'}}), folder / "branch", On(root));
  const size_t failures = FailuresFor([&] { return Opened(folder / "branch"); }, [] {});
  EXPECT_TRUE(failures >= 2);
}

TEST(SavingWithoutDescriptorsLeavesNothingBehind) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  Saved(*root, folder / "root");
  const auto branch = Branch(*root, {{1, 'x'}});
  const size_t failures = FailuresFor([&] { return branch->Save(folder / "branch", On(root)); },
                                      [&] { EXPECT_EQ(EntriesOf((folder / "").c_str()), 1u); });
  EXPECT_TRUE(failures >= 2);
  EXPECT_TRUE(ShowsTheSame(Opened(folder / "branch")->memory.image, branch->GetImage()));
}

TEST(AFileThatCannotGrowLeavesNothingBehind) {
  const Folder folder;
  ::signal(SIGXFSZ, SIG_IGN);  // else the limit ends the process
  const auto root = Root({{0, 'a'}, {9000, 'b'}});
  for (const rlim_t most : {rlim_t{0}, rlim_t{4096}, rlim_t{32} << 20}) {
    const Limit limit(RLIMIT_FSIZE, most);
    const auto report = root->Save(folder / "root", {});
    EXPECT_TRUE(!report && report.error().code == ErrorCode::kSystem);
    EXPECT_EQ(report.error().error_number, EFBIG);
    EXPECT_EQ(EntriesOf((folder / "").c_str()), 0u);
  }
  Saved(*root, folder / "root");
}

// With a disk of its own, on a base.
SnapshotPtr BranchWithDisk(const Snapshot& root) {
  MachineState state = SampleState();
  state.config.memory_bytes = root.GetImage()->Size();
  auto disk = BlockMedium::MakeScratch(1 << 20, "");
  EXPECT_TRUE(disk.has_value());
  WritePage((*disk)->Fd(), 0, 'd');
  state.config.media[1].medium = std::move(*disk);
  return std::make_shared<Snapshot>(Branch(root, {{1, 'x'}})->GetImage(), std::move(state), "{}");
}

TEST(ASaveThatFailsLeavesNothing) {
  const Folder folder;
  const std::string path = folder / "branch";
  const auto root = Root({{0, 'a'}}, 1 << 20);
  Saved(*root, folder / "root");
  const auto branch = BranchWithDisk(*root);
  const auto save = [&] { return branch->Save(path, OnDirectory(folder / "root")); };
  EXPECT_TRUE(save().has_value());  // from now on it keeps its files open
  bool was_saved = false;
  const size_t failures =
      FailAtEachCall([&] { std::filesystem::remove_all(path); },
                     [&] {
                       auto report = save();
                       was_saved = report.has_value();
                       return report;
                     },
                     [&] {
                       EXPECT_EQ(EntriesOf((folder / "").c_str()), was_saved ? 2u : 1u);
                       std::filesystem::remove_all(path);
                       EXPECT_TRUE(save().has_value());
                       EXPECT_TRUE(ShowsTheSame(Opened(path)->memory.image, branch->GetImage()));
                     },
                     // Copies of disks have a plainer way where the kernel's own does not work.
                     [](const faults::Fault& fault) {
                       return std::strcmp(fault.call, "copy_file_range") == 0 ||
                              std::strcmp(fault.call, "lseek") == 0 || fault.request == FICLONE;
                     });
  EXPECT_GT(failures, 25u);
}

// How many bytes the recorded working set of that snapshot names, and that nothing else lies there.
uint64_t RecordedBytes(const Folder& folder) {
  EXPECT_EQ(EntriesOf((folder / "root").c_str()), 4u);
  const auto files = Opened(folder / "root");
  const auto bytes = ReadSmallFile(folder / "root/working-set", kMaxWorkingSetBytes);
  EXPECT_TRUE(bytes.has_value());
  const auto runs = DecodeWorkingSet(*bytes, files->Own().id, kMemoryBytes);
  EXPECT_TRUE(runs.has_value() && runs->size() == 1);
  return runs->front().size;
}

TEST(AWorkingSetThatCannotBeRecordedLeavesTheOneBefore) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {1, 'b'}});
  Saved(*root, folder / "root");
  const std::vector<PageRun> before = {{0, kPageSize}};
  const std::vector<PageRun> after = {{0, 2 * kPageSize}};
  for (auto* const arm : {faults::Arm, faults::ArmHeap}) {
    size_t replaced = 0;
    const size_t failures =
        FailAtEachCall([&] { EXPECT_TRUE(root->RecordWorkingSet(before).has_value()); },
                       [&] { return root->RecordWorkingSet(after); },
                       [&] { replaced += RecordedBytes(folder) == 2 * kPageSize ? 1 : 0; },
                       [](const faults::Fault&) { return false; }, arm);
    EXPECT_GT(failures, 4u);
    // It is in place when only the folder's own fsync fails.
    EXPECT_TRUE(replaced <= 2);
  }
}

TEST(WhatTheDiskCannotReadIsNamedAsDamaged) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  Saved(*root, folder / "root");
  for (const auto mode : {VerifyMode::kAwaited, VerifyMode::kInPassing}) {
    const size_t failures = FailAtEachCall(
        [] {},
        [&] {
          auto part = root->Verify(0, mode);
          if (!part) {
            EXPECT_TRUE(part.error().code == ErrorCode::kSnapshotInvalid);
            EXPECT_TRUE(part.error().detail.starts_with(
                folder / "root/memory cannot be read between offsets 0 and 1048576"));
          }
          return part;
        },
        [&] { EXPECT_TRUE(root->Verify(0, mode).has_value()); },
        [](const faults::Fault& fault) { return std::strcmp(fault.call, "lseek") == 0; });
    EXPECT_GT(failures, 2u);
  }
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
