// Disks that are frozen while they are used, forked, frozen again, and stay what they were.
#include <fcntl.h>

#include <atomic>
#include <thread>

#include "devices/virtio/block_capture.h"
#include "tests/block_guest.h"
#include "tests/folder.h"

namespace vmfork::testing {
namespace {

using MediumPtr = std::shared_ptr<const BlockMedium>;

constexpr auto kReadWrite = BlockDevice::Access::kReadWrite;
constexpr auto kScratch = BlockMedium::Kind::kScratch;
constexpr uint64_t kSector = 512;

// As Vm::Freeze() does it; the device goes on.
MediumPtr Freeze(DiskMachine& d, const std::string& directory = {}) {
  auto capture = BlockCapture::Prepare(d.m.device->Disk().medium, directory);
  if (!capture) return nullptr;
  d.m.transport.Pause();
  auto taken = capture->Take();
  EXPECT_TRUE(taken.has_value());
  d.m.device->Exchange(taken->source);
  d.m.transport.Resume();
  return taken->frozen;
}

BlockDisk Over(const MediumPtr& frozen) {
  return {.medium = frozen->Fork({}).value(), .serial = {}};
}

TEST(ForksShowWhatWasFrozenAndAreApart) {
  std::string content = RandomContent();
  DiskMachine source(MakeDisk(content, kScratch), kReadWrite);
  const MediumPtr frozen = Freeze(source);
  DiskMachine one(Over(frozen), kReadWrite), other(Over(frozen), kReadWrite);
  // A sector of a block: the others of it come along.
  EXPECT_EQ(one.Write(3, std::string(kSector, '1')), VIRTIO_BLK_S_OK);
  EXPECT_EQ(source.Write(3, std::string(kSector, 's')), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(other.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == content);
  EXPECT_TRUE(ContentOf(*frozen) == content);
  EXPECT_TRUE(source.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data ==
              std::string(content).replace(3 * kSector, kSector, kSector, 's'));
  EXPECT_TRUE(one.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data ==
              content.replace(3 * kSector, kSector, kSector, '1'));
}

TEST(WhatAForkClearsIsHiddenForItOnly) {
  const std::string content = RandomContent();
  DiskMachine source(MakeDisk(content, kScratch), kReadWrite);
  const MediumPtr frozen = Freeze(source);
  for (const uint32_t type : {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES}) {
    DiskMachine fork(Over(frozen), kReadWrite);
    EXPECT_EQ(fork.Clear(type, 5, 20), VIRTIO_BLK_S_OK);
    const std::string cleared =
        std::string(content).replace(5 * kSector, 20 * kSector, 20 * kSector, '\0');
    EXPECT_TRUE(fork.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == cleared);
    // Zeros hide what is below in what is frozen of it, and in a flat copy of that, too.
    const MediumPtr nested = Freeze(fork);
    EXPECT_TRUE(ContentOf(*nested) == cleared);
    const UniqueFd flat = MakeNamelessFile(0, {}).value();
    EXPECT_TRUE(nested->CopyTo(flat.Get()).has_value());
    std::string read(kDiskBytes, 'x');
    EXPECT_EQ(::pread(flat.Get(), read.data(), read.size(), 0), static_cast<ssize_t>(kDiskBytes));
    EXPECT_TRUE(read == cleared);
  }
  EXPECT_TRUE(ContentOf(*frozen) == content);
}

TEST(ADiskNobodyWroteSinceItsFreezeGrowsNoLayers) {
  DiskMachine source(MakeDisk(RandomContent(), kScratch), kReadWrite);
  const MediumPtr first = Freeze(source);
  const MediumPtr goes_on = source.m.device->Disk().medium;
  const MediumPtr second = Freeze(source);
  EXPECT_TRUE(source.m.device->Disk().medium == goes_on);
  EXPECT_TRUE(second->Fd() == first->Fd());
  EXPECT_EQ(source.Write(0, std::string(kSector, 'x')), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(ContentOf(*second) == RandomContent());
}

// Of a last block that is not whole.
constexpr uint64_t kOddBytes = (96 << 10) + 3 * kSector;

void ChangeAtRandom(DiskMachine& d, std::string& model, std::minstd_rand& random) {
  const uint64_t sectors = kOddBytes / kSector;
  const uint64_t sector = random() % sectors;
  const uint64_t count = 1 + random() % std::min<uint64_t>(sectors - sector, 40);
  const auto fill = static_cast<char>('a' + random() % 26);
  const bool clears = random() % 4 == 0;
  if (clears) {
    EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, sector, static_cast<uint32_t>(count)),
              VIRTIO_BLK_S_OK);
  } else {
    EXPECT_EQ(d.Write(sector, std::string(count * kSector, fill)), VIRTIO_BLK_S_OK);
  }
  model.replace(sector * kSector, count * kSector, count * kSector, clears ? '\0' : fill);
}

// A chain of branches, each a fork of the one before or the source itself going on, on disk and in
// memory: all that was frozen stays what it was, whatever is merged, and the layers stay few.
TEST(FiftyGenerationsStayWhatTheyWereAndBoundedInDepth) {
  const Folder folder;
  std::minstd_rand random{7};
  std::string model = RandomContent(kOddBytes);
  auto d = std::make_unique<DiskMachine>(MakeDisk(model, kScratch), kReadWrite);
  std::vector<std::pair<MediumPtr, std::string>> frozen;
  size_t deepest = 0;
  for (int generation = 0; generation < 50; ++generation) {
    for (int i = 0; i < 4; ++i) ChangeAtRandom(*d, model, random);
    frozen.emplace_back(Freeze(*d, folder / "scratch"), model);
    if (generation % 3 == 0)
      d = std::make_unique<DiskMachine>(Over(frozen.back().first), kReadWrite);
    deepest = std::max(deepest, d->m.device->Disk().medium->Layers().size());
    EXPECT_TRUE(d->Request(VIRTIO_BLK_T_IN, 0, kOddBytes).data == model);
  }
  EXPECT_LT(deepest, size_t{18});
  EXPECT_GT(deepest, size_t{8});
  for (const auto& [medium, content] : frozen) EXPECT_TRUE(ContentOf(*medium) == content);
}

// Sectors of the same blocks, by several threads at once, where each block has to be filled first.
TEST(WritersOfOneBlockLoseNothingOfEachOther) {
  const std::string content = RandomContent();
  DiskMachine source(MakeDisk(content, kScratch), kReadWrite);
  const MediumPtr frozen = Freeze(source);
  for (int round = 0; round < 20; ++round) {
    DiskMachine fork(Over(frozen), kReadWrite, 4);
    std::string expected = content;
    for (uint64_t sector = 0; sector < 32; sector += 2) {
      const auto fill = static_cast<char>('a' + sector);
      fork.Send(VIRTIO_BLK_T_OUT, sector, 0, std::string(kSector, fill));
      expected.replace(sector * kSector, kSector, kSector, fill);
    }
    fork.m.transport.Notify();
    for (int i = 0; i < 16; ++i) EXPECT_TRUE(fork.m.driver.Complete(0).has_value());
    EXPECT_TRUE(fork.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == expected);
  }
}

TEST(AFreezeTakesRequestsUnderWayExactlyOnce) {
  DiskMachine source(MakeDisk(RandomContent(), kScratch), kReadWrite, 1);
  auto capture = BlockCapture::Prepare(source.m.device->Disk().medium, {});
  Blocker blocker(source.threads);
  const auto sent = source.Send(VIRTIO_BLK_T_OUT, 1, 0, std::string(kSector, 'x'));
  source.m.transport.Notify();
  std::thread releaser([&blocker] { blocker.Release(); });
  source.m.transport.Pause();
  releaser.join();
  auto taken = capture->Take().value();
  source.m.device->Exchange(taken.source);
  source.m.transport.Resume();
  EXPECT_EQ(source.Read(sent).status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(source.m.driver.Complete(0).has_value());
  EXPECT_TRUE(ContentOf(*taken.frozen) == RandomContent().replace(kSector, kSector, kSector, 'x'));
  EXPECT_TRUE(taken.source->Layers().front()->IsUnwritten(kDiskBytes));
}

// The caller's file is written in place, before, during and after its copy.
TEST(ACallersFileIsCopiedAsItIsAtTheInstant) {
  const Folder folder;
  const std::string path = folder / "file";
  constexpr uint64_t kBytes = 8 << 20;
  {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const std::string content = RandomContent(kBytes);
    EXPECT_TRUE(WriteFully(fd.Get(), std::as_bytes(std::span(content)), 0).has_value());
  }
  const MediumPtr file =
      BlockMedium::Open(path, BlockMedium::Kind::kFile, ErrorCode::kDisk).value();
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> writes = 0;
  std::thread writer([&] {
    std::minstd_rand random{3};
    while (!stop) {
      const std::string bytes(kSector * (1 + random() % 64), static_cast<char>(random()));
      const uint64_t at = random() % ((kBytes - bytes.size()) / kSector) * kSector;
      EXPECT_TRUE(file->Change(at, bytes.size(), [&] {
        if (random() % 4 == 0) {
          return ::fallocate(file->Fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             static_cast<off_t>(at), static_cast<off_t>(bytes.size())) == 0;
        }
        return WriteFully(file->Fd(), std::as_bytes(std::span(bytes)), at).has_value();
      }));
      ++writes;
    }
  });
  while (writes < 100) std::this_thread::yield();
  auto capture = BlockCapture::Prepare(file, folder / "scratch");
  const uint64_t then = writes;
  while (writes < then + 20) std::this_thread::yield();
  stop = true;
  writer.join();
  ASSERT_TRUE(capture.has_value());
  const auto taken = capture->Take().value();
  EXPECT_TRUE(taken.source == file);
  EXPECT_FALSE(taken.frozen->Fd() == file->Fd());
  EXPECT_TRUE(ContentOf(*taken.frozen) == ContentOf(*file));
}

TEST(AWriteThatFailsLeavesWhatWasThere) {
  const std::string content = RandomContent();
  const MediumPtr frozen = MakeDisk(content, kScratch).medium;
  const UniqueFd file = MakeNamelessFile(kDiskBytes, {}).value();
  const std::string path = "/proc/self/fd/" + std::to_string(file.Get());
  auto read_only = std::make_shared<BlockLayer>(
      UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), BlockMap::Make(kDiskBytes).value());
  const BlockLayers layers{read_only, frozen->Layers().front()};
  DiskMachine d({.medium = std::make_shared<const BlockMedium>(layers, kDiskBytes), .serial = {}},
                kReadWrite);
  EXPECT_EQ(d.Write(1, std::string(kSector, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Write(8, std::string(8 * kSector, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 8, 8), VIRTIO_BLK_S_IOERR);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == content);
}

TEST(AMapFindsAndTakesRunsAcrossWords) {
  auto map = BlockMap::Make(1000 * BlockMap::kBlockBytes).value();
  map.Add({60, 200});
  map.Add({999, 1000});
  EXPECT_EQ(map.Count({0, 1000}), 141U);
  EXPECT_EQ(map.Find({0, 1000}, true), 60U);
  EXPECT_EQ(map.Find({60, 1000}, false), 200U);
  EXPECT_TRUE(map.Holds({64, 128}));
  EXPECT_FALSE(map.Holds({59, 61}));
  const auto first = map.TakeFirst({0, 150});
  EXPECT_EQ(first.first, 60U);
  EXPECT_EQ(first.end, 150U);
  EXPECT_EQ(map.Find({0, 1000}, true), 150U);
  map.Remove({150, 200});
  EXPECT_EQ(map.TakeFirst({0, 1000}).first, 999U);
  EXPECT_EQ(map.Count({0, 1000}), 0U);
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
