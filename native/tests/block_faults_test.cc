// Freezing disks when the host runs out: each call that fails while layers are merged or a file is
// copied. A typed error, nothing held, the disk as it was, and the next freeze works.
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "devices/virtio/block_capture.h"
#include "tests/block_guest.h"
#include "tests/fault_scenario.h"
#include "tests/folder.h"

namespace vmfork::testing {
namespace {

constexpr uint64_t kBlocks = kDiskBytes / BlockMap::kBlockBytes;

// Shortcuts, for which there is a longer way.
bool HasOtherWay(const faults::Fault& fault) {
  constexpr std::array<std::string_view, 5> kCalls = {"copy_file_range", "fallocate", "fstat",
                                                      "ioctl", "lseek"};
  return std::ranges::find(kCalls, fault.call) != kCalls.end();
}

// More than a disk keeps: each holds a block, above one that is whole.
BlockLayers ManyLayers() {
  constexpr uint64_t kCount = 2 * kBlocks;
  BlockLayers layers;
  for (uint64_t i = 0; i < kCount; ++i) {
    auto layer = MakeUpperLayer(kDiskBytes, {}).value();
    const std::string bytes(BlockMap::kBlockBytes, static_cast<char>('a' + i));
    const BlockMap::Run run{i % kBlocks, i % kBlocks + 1};
    EXPECT_TRUE(WriteFully(layer->fd.Get(), std::as_bytes(std::span(bytes)),
                           run.first * BlockMap::kBlockBytes)
                    .has_value());
    layer->held->Add(run);
    layers.push_back(std::move(layer));
  }
  const auto whole =
      MakeDisk(RandomContent(), BlockMedium::Kind::kScratch).medium->Layers().front();
  layers.push_back(whole);
  return layers;
}

TEST(AMergeThatFailsLeavesTheLayersAsTheyWere) {
  const Folder folder;
  const BlockLayers layers = ManyLayers();
  const std::string content = ContentOf(BlockMedium(layers, kDiskBytes));
  // The layers are in memory and the merged one is a file: the kernel does not copy between them.
  const auto merge = [&] { return Flatten(layers, kDiskBytes, folder / "scratch"); };
  const auto check = [&] {
    EXPECT_TRUE(ContentOf(BlockMedium(layers, kDiskBytes)) == content);
    const auto few = merge();
    EXPECT_TRUE(few && few->size() < layers.size());
    EXPECT_TRUE(ContentOf(BlockMedium(*few, kDiskBytes)) == content);
  };
  const size_t failures = FailAtEachCall([] {}, merge, check, HasOtherWay);
  EXPECT_TRUE(failures > kBlocks);
}

TEST(ACopyOfACallersFileThatFailsLeavesTheFile) {
  const Folder folder;
  const std::string path = folder / "disk", content = RandomContent();
  {
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_TRUE(WriteFully(file.Get(), std::as_bytes(std::span(content)), 0).has_value());
  }
  const auto medium = BlockMedium::Open(path, BlockMedium::Kind::kFile, ErrorCode::kDisk).value();
  const auto prepare = [&] { return BlockCapture::Prepare(medium, folder / "scratch"); };
  const auto check = [&] {
    auto capture = prepare();
    EXPECT_TRUE(capture.has_value());
    const auto taken = capture->Take();
    EXPECT_TRUE(taken.has_value());
    EXPECT_TRUE(ContentOf(*taken->frozen) == content);
    EXPECT_TRUE(taken->source == medium);
  };
  const size_t failures = FailAtEachCall([] {}, prepare, check, HasOtherWay);
  EXPECT_TRUE(failures >= 4);
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
