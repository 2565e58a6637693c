// The read-only disk: reads, range checks, and requests that nobody should
// send.
#include "devices/virtio/block.h"

#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <unistd.h>

#include <random>

#include "tests/test.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {
namespace {

constexpr uint64_t kDiskBytes = 64 * 512;

// An unlinked file with a known content.
std::shared_ptr<const File> MakeDisk(std::string& content) {
  std::minstd_rand random{1};
  content.resize(kDiskBytes);
  for (char& byte : content) byte = static_cast<char>(random());
  char path[] = "/tmp/virtio_block_test.XXXXXX";
  const UniqueFd fd(::mkstemp(path));
  std::ignore = WriteFully(fd.Get(), std::as_bytes(std::span(content)), 0);
  auto file = File::OpenReadOnly(path, ErrorCode::kSystem);
  ::unlink(path);
  return file.value();
}

struct DiskMachine {
  DiskMachine() : m(MakeDisk(content), "serial-number") { m.driver.Start(); }

  struct Answer {
    uint8_t status = 0xff;
    std::string data;
    uint32_t used_bytes = 0;
  };
  Answer Request(uint32_t type, uint64_t sector, uint32_t size) {
    const virtio_blk_outhdr header{type, 0, sector};
    const uint64_t gpa = m.ram.Allocate(sizeof header + size + 1);
    std::memcpy(m.ram.At(gpa), &header, sizeof header);
    std::vector<TestBuffer> chain{{gpa, sizeof header}};
    if (size > 0) chain.push_back({gpa + sizeof header, size, true});
    chain.push_back({gpa + sizeof header + size, 1, true});
    m.driver.queues[0].Add(chain);
    const auto used = m.driver.Complete(0);
    if (!used) return {};
    const auto* bytes = reinterpret_cast<const char*>(m.ram.At(gpa + sizeof header));
    return {static_cast<uint8_t>(bytes[size]), std::string(bytes, size), used->bytes};
  }

  std::string content;
  TestMachine<BlockDevice> m;
};

TEST(ReadsSectors) {
  DiskMachine d;
  const auto answer = d.Request(VIRTIO_BLK_T_IN, 3, 4096);
  EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(answer.data == d.content.substr(3 * 512, 4096));
  EXPECT_EQ(answer.used_bytes, 4097U);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 63, 512).data == d.content.substr(63 * 512));
}

TEST(CapacityIsInTheConfigurationSpace) {
  DiskMachine d;
  EXPECT_EQ(d.m.driver.Read(VIRTIO_MMIO_CONFIG), 64U);
  EXPECT_EQ(d.m.driver.Read(VIRTIO_MMIO_CONFIG + 4), 0U);
  EXPECT_EQ(d.m.driver.Read(VIRTIO_MMIO_CONFIG + 0xe00), 0U);
  d.m.driver.Write(VIRTIO_MMIO_CONFIG, 1000);
  EXPECT_EQ(d.m.driver.Read(VIRTIO_MMIO_CONFIG), 64U);
}

TEST(RangesBeyondTheDiskFail) {
  DiskMachine d;
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 64, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 63, 1024).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, UINT64_MAX, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 0, 100).status, VIRTIO_BLK_S_IOERR);
}

TEST(OtherRequests) {
  DiskMachine d;
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_FLUSH, 0, 0).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_OUT, 0, 0).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_DISCARD, 0, 0).status, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(d.Request(0x7777'7777, 0, 0).status, VIRTIO_BLK_S_UNSUPP);
  const auto id = d.Request(VIRTIO_BLK_T_GET_ID, 0, 20);
  EXPECT_EQ(id.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::string(id.data.c_str()), "serial-number");
}

TEST(RequestWithoutStatusByteBreaksTheRing) {
  DiskMachine d;
  d.m.driver.queues[0].Add({{d.m.ram.Allocate(16), 16}});
  d.m.transport.Notify();
  EXPECT_NE(d.m.driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
}

TEST(BuffersCutAnywhere) {
  DiskMachine d;
  const virtio_blk_outhdr header{VIRTIO_BLK_T_IN, 0, 1};
  const uint64_t gpa = d.m.ram.Allocate(1024);
  std::memcpy(d.m.ram.At(gpa), &header, sizeof header);
  // Header in two parts, data and status in one odd-sized tail (section 2.7.4).
  d.m.driver.queues[0].Add(
      {{gpa, 5}, {gpa + 5, 11}, {gpa + 16, 100, true}, {gpa + 116, 413, true}});
  const auto used = d.m.driver.Complete(0);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->bytes, 513U);
  EXPECT_EQ(std::memcmp(d.m.ram.At(gpa + 16), d.content.data() + 512, 512), 0);
  EXPECT_EQ(std::to_integer<int>(*d.m.ram.At(gpa + 528)), VIRTIO_BLK_S_OK);
}

TEST(StateOfAnotherDiskIsRefused) {
  DiskMachine d;
  d.m.transport.Pause();
  ByteWriter out;
  d.m.transport.Save(out);
  DiskMachine same;
  same.m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  std::vector<std::byte> bytes(out.Bytes().begin(), out.Bytes().end());
  for (size_t i = bytes.size() - 8; i < bytes.size(); ++i) bytes[i] ^= std::byte{1};
  ByteReader in(bytes);
  EXPECT_FALSE(same.m.transport.Restore(in).has_value());
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
