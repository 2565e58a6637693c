// Snapshots on disk without a machine: chains show the same memory as what was saved, write only
// what differs, notice every change to their files, and read a working set ahead.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "memory/page_scan.h"
#include "snapshot/working_set.h"
#include "tests/saved_fixture.h"

namespace vmfork {
namespace {

// The error of the first part that fails; none: all is as it should be. Adds up what was read.
std::string Verified(const SavedFiles& files, VerifyMode mode = VerifyMode::kAwaited,
                     uint64_t* read_bytes = nullptr) {
  uint64_t position = 0;
  do {
    auto part = VerifyPart(files, position, mode);
    if (!part) return part.error().detail;
    EXPECT_TRUE(part->next == 0 || (part->next > position && part->next < part->end));
    if (mode == VerifyMode::kInPassing) EXPECT_LE(part->read_bytes, kChunkBytes);
    if (read_bytes != nullptr) *read_bytes += part->read_bytes;
    position = part->next;
  } while (position != 0);
  return {};
}

void Overwrite(const std::string& path, uint64_t offset) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  char byte = 0;
  EXPECT_EQ(::pread(fd.Get(), &byte, 1, static_cast<off_t>(offset)), 1);
  byte = static_cast<char>(byte ^ 1);
  EXPECT_EQ(::pwrite(fd.Get(), &byte, 1, static_cast<off_t>(offset)), 1);
}

TEST(AWholeSnapshotShowsWhatWasSavedAndIsSparse) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {1, 'b'}, {9000, 'c'}});
  const SaveReport report = Saved(*root, folder / "root");
  EXPECT_EQ(report.layers, 1u);
  EXPECT_EQ(report.memory_bytes, 3 * kPageSize);
  const auto files = Opened(folder / "root");
  EXPECT_TRUE(ShowsTheSame(files->memory.image, root->GetImage()));
  EXPECT_EQ(files->memory.image->Extents().size(), 1u);
  struct stat status{};
  EXPECT_EQ(::stat((folder / "root/memory").c_str(), &status), 0);
  EXPECT_TRUE(static_cast<uint64_t>(status.st_blocks) * 512 < kMemoryBytes / 16);
}

TEST(SavingDoesNotFillTheHolesOfALayer) {
  const Folder folder;
  const auto root = Root({{5, 'a'}});
  Saved(*root, folder / "root");
  struct stat status{};
  EXPECT_EQ(::fstat(root->GetImage()->Extents()[0].file->Get(), &status), 0);
  EXPECT_EQ(static_cast<uint64_t>(status.st_blocks) * 512, kPageSize);
}

TEST(ADifferenceHoldsOnlyWhatDiffers) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {1, 'b'}, {2, 'c'}, {9000, 'd'}});
  Saved(*root, folder / "root");
  // One page changes, one is rewritten as it was, one becomes zero.
  const auto branch = Branch(*root, {{1, 'x'}, {2, 'c'}, {9000, '\0'}});
  const SaveReport report = Saved(*branch, folder / "branch", On(root));
  EXPECT_EQ(report.layers, 2u);
  EXPECT_EQ(report.memory_bytes, kPageSize);
  const auto files = Opened(folder / "branch");
  EXPECT_TRUE(ShowsTheSame(files->memory.image, branch->GetImage()));
  EXPECT_TRUE(Verified(*files).empty());
}

TEST(ABaseMayBeNamedByItsDirectoryAndShareNothingInMemory) {
  const Folder folder;
  Saved(*Root({{0, 'a'}, {9000, 'd'}}), folder / "root");
  const auto stranger = Root({{0, 'a'}, {9000, 'e'}, {9500, 'f'}});
  const SaveReport report = Saved(*stranger, folder / "branch", OnDirectory(folder / "root"));
  EXPECT_EQ(report.layers, 2u);
  EXPECT_EQ(report.memory_bytes, 2 * kPageSize);
  EXPECT_TRUE(ShowsTheSame(Opened(folder / "branch")->memory.image, stranger->GetImage()));
}

TEST(AChainIsOneFlatListAndStartsAnewWhenItGetsTooLong) {
  const Folder folder;
  auto last = Root({{0, 'a'}});
  Saved(*last, folder / "0");
  size_t most_layers = 1;
  for (int i = 1; i <= 40; ++i) {
    // Far apart, so that none hides another.
    const auto next =
        Branch(*last, {{static_cast<uint64_t>(i) * 300, static_cast<char>('a' + i % 20)}});
    const SaveReport report = Saved(*next, folder / std::to_string(i), On(last));
    EXPECT_TRUE(report.layers ==
                (i < 32 ? static_cast<size_t>(i) + 1 : static_cast<size_t>(i) - 31));
    most_layers = std::max(most_layers, report.layers);
    last = next;
  }
  EXPECT_EQ(most_layers, kMaxLayers);
  for (const char* name : {"31", "32", "40"}) {
    const auto files = Opened(folder / name);
    EXPECT_TRUE(files.has_value() && Verified(*files).empty());
  }
  EXPECT_TRUE(ShowsTheSame(Opened(folder / "40")->memory.image, last->GetImage()));
}

TEST(LayersThatAreHiddenAreNotReferredTo) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {9000, 'b'}});
  Saved(*root, folder / "root");
  const auto middle = Branch(*root, {{9000, 'm'}});
  Saved(*middle, folder / "middle", On(root));
  const auto top = Branch(*middle, {{9000, 't'}});
  EXPECT_EQ(Saved(*top, folder / "top", On(middle)).layers, 2u);
  std::filesystem::remove_all(folder / "middle");
  EXPECT_TRUE(ShowsTheSame(Opened(folder / "top")->memory.image, top->GetImage()));
}

TEST(TooManyExtentsAreSavedWhole) {
  const Folder folder;
  constexpr uint64_t kSize = uint64_t{3} << 30;
  const auto root = Root({{0, 'a'}}, kSize);
  Saved(*root, folder / "root");
  Pages scattered;
  for (uint64_t i = 0; i < kMaxSavedExtents; ++i) scattered.push_back({i * 128, 's'});
  const SaveReport report = Saved(*Branch(*root, scattered), folder / "branch", On(root));
  EXPECT_EQ(report.layers, 1u);
  EXPECT_EQ(report.memory_bytes, kMaxSavedExtents * kPageSize);
}

TEST(BasesAreFoundBesideASnapshotThatMovedAndCheckedForIdentity) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  std::filesystem::create_directory(folder / "here");
  Saved(*root, folder / "here/root");
  const auto branch = Branch(*root, {{1, 'x'}});
  Saved(*branch, folder / "here/branch", On(root));
  std::filesystem::rename(folder / "here", folder / "there");
  EXPECT_TRUE(ShowsTheSame(Opened(folder / "there/branch")->memory.image, branch->GetImage()));

  std::filesystem::remove_all(folder / "there/root");
  const auto missing = Opened(folder / "there/branch");
  EXPECT_TRUE(!missing && missing.error().code == ErrorCode::kSnapshotInvalid);
  EXPECT_TRUE(missing.error().detail.find("root") != std::string::npos);

  Saved(*Root({{0, 'b'}}), folder / "there/root");
  EXPECT_FALSE(Opened(folder / "there/branch").has_value());
}

TEST(ASnapshotCannotBeSavedOnWhatIsNotThere) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  const auto branch = Branch(*root, {{1, 'x'}});
  EXPECT_TRUE(branch->Save(folder / "b", On(root)).error().code == ErrorCode::kState);
  EXPECT_TRUE(branch->Save(folder / "b", OnDirectory(folder / "root")).error().code ==
              ErrorCode::kSnapshotInvalid);
  Saved(*Root({{0, 'a'}}, 2 * kMemoryBytes), folder / "large");
  EXPECT_TRUE(branch->Save(folder / "b", OnDirectory(folder / "large")).error().code ==
              ErrorCode::kSnapshotIncompatible);
  Saved(*root, folder / "root");
  std::filesystem::remove_all(folder / "root");
  EXPECT_FALSE(branch->Save(folder / "b", On(root)).has_value());
  EXPECT_FALSE(root->Save(folder / "large", {}).has_value());
  size_t names = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder / ""))
    ++names;
  EXPECT_EQ(names, 1u);
}

TEST(VerifyNamesTheFileAndThePlaceOfEveryChange) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {2000, 'b'}, {9000, 'c'}});
  Saved(*root, folder / "root");
  const auto branch = Branch(*root, {{2000, 'x'}, {2002, 'y'}});
  Saved(*branch, folder / "branch", On(root));
  const auto files = Opened(folder / "branch");
  struct Change {
    const char* file;
    uint64_t offset;
    const char* place;
  };
  for (const auto& [file, offset, place] : {
           Change{"root/memory", 17, "offsets 0 and"},
           Change{"root/memory", 9000 * kPageSize + 4095, "offsets 36700160 and"},
           Change{"root/memory", 30 << 20, "offsets 31457280 and"},  // a hole
           Change{"root/memory", kMemoryBytes - 1, "offsets 66060288"},
           Change{"root/memory", 2000 * kPageSize, "offsets 7340032"},  // hidden by the branch
           Change{"branch/memory", 2000 * kPageSize, "offsets 7340032"},
           Change{"branch/memory", 2001 * kPageSize, "offsets 7340032"},  // between its pages
       }) {
    Overwrite(folder / file, offset);
    const std::string found = Verified(*files);
    EXPECT_TRUE(found.find(file) != std::string::npos && found.find(place) != std::string::npos);
    Overwrite(folder / file, offset);
    EXPECT_TRUE(Verified(*files).empty());
  }
  // Where the branch has nothing of its own, nobody maps its file.
  Overwrite(folder / "branch/memory", 0);
  EXPECT_TRUE(Verified(*files).empty());
  EXPECT_TRUE(ShowsTheSame(files->memory.image, branch->GetImage()));
}

TEST(VerifyNoticesAFileThatGotShorter) {
  const Folder folder;
  Saved(*Root({{9000, 'c'}}), folder / "root");
  const auto files = Opened(folder / "root");
  EXPECT_EQ(::truncate((folder / "root/memory").c_str(), 4096), 0);
  EXPECT_TRUE(Verified(*files).find("root/memory") != std::string::npos);
}

TEST(AScrubFindsWhatAVerifyDoesALittleAtATime) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {1, 'b'}, {2000, 'b'}, {9000, 'c'}});
  Saved(*root, folder / "root");
  Saved(*Branch(*root, {{2000, 'x'}}), folder / "branch", On(root));
  const auto files = Opened(folder / "branch");
  uint64_t read_bytes = 0;
  EXPECT_TRUE(Verified(*files, VerifyMode::kInPassing, &read_bytes).empty());
  EXPECT_EQ(read_bytes, 5 * kPageSize);
  EXPECT_EQ(VerifyPart(*files, 0, VerifyMode::kInPassing)->end, 2 * kMemoryBytes);
  Overwrite(folder / "root/memory", 9000 * kPageSize + 4095);
  const std::string found = Verified(*files, VerifyMode::kInPassing);
  EXPECT_FALSE(found.empty());
  EXPECT_EQ(found, Verified(*files));
}

uint64_t PagesInCache(int fd, uint64_t offset, uint64_t size) {
  void* const map = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(offset));
  std::vector<unsigned char> present(size / kPageSize);
  EXPECT_EQ(::mincore(map, size, present.data()), 0);
  ::munmap(map, size);
  uint64_t count = 0;
  for (const unsigned char page : present) count += page & 1;
  return count;
}

bool CanReadInPassing(int fd) {
  std::byte byte{};
  const iovec part{.iov_base = &byte, .iov_len = 1};
  return ::preadv2(fd, &part, 1, 0, 0x80) == 1;  // RWF_DONTCACHE
}

TEST(AScrubLeavesThePageCacheAsItWas) {
  const Folder folder;
  constexpr uint64_t kPages = 1024, kUsed = 256;
  Pages pages;
  for (uint64_t page = 0; page < kPages; ++page) pages.push_back({page, 'p'});
  Saved(*Root(pages), folder / "root");
  const auto files = Opened(folder / "root");
  const int fd = files->Own().file->Get();
  const auto begin_anew = [fd] {
    EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    std::vector<std::byte> used(kUsed * kPageSize);
    EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);  // nothing is read ahead
    EXPECT_EQ(::pread(fd, used.data(), used.size(), 0), static_cast<ssize_t>(used.size()));
    EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL), 0);
  };
  begin_anew();
  EXPECT_TRUE(Verified(*files).empty());
  EXPECT_EQ(PagesInCache(fd, 0, kPages * kPageSize), kPages);
  begin_anew();
  EXPECT_EQ(PagesInCache(fd, 0, kPages * kPageSize), kUsed);
  EXPECT_TRUE(Verified(*files, VerifyMode::kInPassing).empty());
  const uint64_t left = PagesInCache(fd, 0, kPages * kPageSize);
  EXPECT_EQ(left, CanReadInPassing(fd) ? kUsed : kPages);
}

TEST(WhatIsDamagedOnDiskIsNoBaseUntilItIsSavedAgain) {
  const Folder folder;
  const auto root = Root({{0, 'a'}, {9000, 'b'}});
  Saved(*root, folder / "root");
  const auto branch = Branch(*root, {{1, 'x'}});
  EXPECT_EQ(root->Verify(0)->end, kMemoryBytes);
  Overwrite(folder / "root/memory", 0);
  const auto found = root->Verify(0);
  EXPECT_TRUE(!found && found.error().code == ErrorCode::kSnapshotInvalid);
  const auto refused = branch->Save(folder / "branch", On(root));
  EXPECT_TRUE(!refused && refused.error().detail == found.error().detail);
  // In memory it is still whole.
  EXPECT_TRUE(root->CheckSound("fork").has_value());
  Saved(*root, folder / "again");
  EXPECT_EQ(Saved(*branch, folder / "branch", On(root)).layers, 2u);
}

TEST(ScratchDisksAreSavedWithADifferenceAndVerified) {
  const Folder folder;
  const auto root = Root({{0, 'a'}});
  Saved(*root, folder / "root");
  auto medium = BlockMedium::MakeScratch((3 << 20) + 512, {});
  WritePage((*medium)->Fd(), 1 << 20, 'd');
  EXPECT_EQ(::pwrite((*medium)->Fd(), "tail", 4, 3 << 20), 4);
  MachineState state = SampleState();
  state.config.media[1] = {.medium = *medium, .serial = "scratch"};
  const Snapshot snapshot(root->GetImage(), state, "{}");
  EXPECT_EQ(Saved(snapshot, folder / "disk", On(root)).layers, 2u);
  const auto files = Opened(folder / "disk");
  EXPECT_TRUE(Verified(*files).empty());
  for (const uint64_t offset : {(1 << 20) + 5, (3 << 20) + 1, (3 << 20) + 511, 2 << 20}) {
    Overwrite(folder / "disk/disk1", offset);
    EXPECT_TRUE(Verified(*files).find("disk/disk1") != std::string::npos);
    Overwrite(folder / "disk/disk1", offset);
  }
  EXPECT_EQ(::truncate((folder / "disk/disk1").c_str(), 512), 0);
  EXPECT_FALSE(Opened(folder / "disk").has_value());
}

TEST(TouchedPagesAreThoseReadAndThoseWritten) {
  const auto root = Root({{0, 'a'}, {5000, 'b'}, {12'000, 'c'}});
  auto view = PrivateView::Map(root->GetImage());
  const volatile std::byte* const memory = view->Data();
  EXPECT_TRUE(memory[0] == std::byte{'a'});
  view->Data()[5000 * kPageSize] = std::byte{'x'};
  const auto runs = FindPresentPages(std::span(view->Data(), view->Size()));
  const auto touched = [&runs](uint64_t page) {
    for (const auto& [start, size] : *runs)
      if (page * kPageSize >= start && page * kPageSize < start + size) return true;
    return false;
  };
  EXPECT_TRUE(touched(0) && touched(5000));
  EXPECT_FALSE(touched(12'000) || touched(3000));
  EXPECT_TRUE(AreRunsPlausible(*runs, view->Size()));
}

TEST(AWorkingSetIsKeptBesideTheSnapshotAndReadAhead) {
  const Folder folder;
  Pages pages;
  for (uint64_t page = 1024; page < 1536; ++page) pages.push_back({page, 'w'});
  const auto root = Root(pages);
  EXPECT_TRUE(root->RecordWorkingSet({}).error().code == ErrorCode::kState);
  Saved(*root, folder / "root");
  const std::vector<PageRun> runs = {{1024 * kPageSize, 500 * kPageSize}};
  EXPECT_TRUE(root->RecordWorkingSet(runs).has_value());
  EXPECT_FALSE(root->RecordWorkingSet(std::vector<PageRun>{{1, 2}}).has_value());

  const auto files = Opened(folder / "root");
  const auto bytes = ReadSmallFile(folder / "root/working-set", kMaxWorkingSetBytes);
  const auto kept = DecodeWorkingSet(*bytes, files->Own().id, kMemoryBytes);
  EXPECT_TRUE(kept.has_value() && kept->size() == 1 && kept->front().size == runs[0].size);

  const int fd = files->Own().file->Get();
  EXPECT_EQ(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_TRUE(Prefetch(*files->memory.image, *kept).has_value());
  // The kernel reads on its own time.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  uint64_t present = 0;
  while (present < 500 && std::chrono::steady_clock::now() < deadline) {
    present = PagesInCache(fd, runs[0].start, runs[0].size);
    std::this_thread::yield();
  }
  EXPECT_EQ(present, 500u);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
