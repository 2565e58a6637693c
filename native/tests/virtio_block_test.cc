// The disk as its driver sees it: reads, writes, range checks, and requests that nobody should
// send.
#include "tests/block_guest.h"

namespace vmfork::testing {
namespace {

constexpr auto kReadWrite = BlockDevice::Access::kReadWrite;
constexpr auto kScratch = BlockMedium::Kind::kScratch;

TEST(ReadsSectors) {
  DiskMachine d;
  const std::string content = RandomContent();
  const auto answer = d.Request(VIRTIO_BLK_T_IN, 3, 4096);
  EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(answer.data == content.substr(3 * 512, 4096));
  EXPECT_EQ(answer.used_bytes, 4097U);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 63, 512).data == content.substr(63 * 512));
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
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 64, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 63, 1024).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, UINT64_MAX, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 0, 100).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Write(64, std::string(512, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Write(0, std::string(100, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 1, 64), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX), VIRTIO_BLK_S_IOERR);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == RandomContent());
}

TEST(ReadOnlyDiskRefusesChanges) {
  DiskMachine d;
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_FLUSH, 0, 0).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Write(0, std::string(512, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 0, 1), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(d.Request(0x7777'7777, 0, 0).status, VIRTIO_BLK_S_UNSUPP);
  const auto id = d.Request(VIRTIO_BLK_T_GET_ID, 0, 20);
  EXPECT_EQ(id.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::string(id.data.c_str()), "serial-number");
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_GET_ID, 0, 21).status, VIRTIO_BLK_S_IOERR);
  // An image in a drive that can be written to.
  DiskMachine writable(MakeDisk(RandomContent()), kReadWrite);
  EXPECT_EQ(writable.Write(0, std::string(512, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(writable.Clear(VIRTIO_BLK_T_DISCARD, 0, 1), VIRTIO_BLK_S_IOERR);
}

TEST(WhatIsWrittenIsReadBack) {
  DiskMachine d(MakeDisk(RandomContent(), BlockMedium::Kind::kFile), kReadWrite);
  std::string content = RandomContent();
  EXPECT_EQ(d.Write(5, std::string(1024, 'x')), VIRTIO_BLK_S_OK);
  content.replace(5 * 512, 1024, 1024, 'x');
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_FLUSH, 0, 0).status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == content);
}

TEST(ClearedSectorsReadAsZerosAndTakeNoSpace) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite);
  std::string content = RandomContent();
  struct stat before{}, after{};
  ::fstat(d.m.device->Disk().medium->Fd(), &before);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, 3, 2), VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, 62, 2, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 16, 16), VIRTIO_BLK_S_OK);
  for (auto [sector, sectors] : {std::pair(3, 2), {62, 2}, {16, 16}}) {
    const auto size = static_cast<size_t>(sectors) * 512;
    content.replace(static_cast<size_t>(sector) * 512, size, size, '\0');
  }
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == content);
  ::fstat(d.m.device->Disk().medium->Fd(), &after);
  EXPECT_EQ(before.st_blocks - after.st_blocks, 16);
}

TEST(OddClearRequestsFail) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 0, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
            VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_DISCARD, 0, 0).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_DISCARD, 0, 0, std::string(15, '\0')).status,
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_DISCARD, 0, 0, std::string(17 * 16, '\0')).status,
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_DISCARD, 0, 0, std::string(16 * 16, '\0')).status,
            VIRTIO_BLK_S_OK);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == RandomContent());
}

TEST(RequestWithoutStatusByteBreaksTheRing) {
  DiskMachine d;
  d.m.driver.queues[0].Add({{d.m.ram.Allocate(16), 16}});
  d.m.transport.Notify();
  EXPECT_NE(d.m.driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
}

TEST(BuffersCutAnywhere) {
  DiskMachine d;
  const std::string content = RandomContent();
  const virtio_blk_outhdr header{VIRTIO_BLK_T_IN, 0, 1};
  const uint64_t gpa = d.m.ram.Allocate(1024);
  std::memcpy(d.m.ram.At(gpa), &header, sizeof header);
  // Header in two parts, data and status in one odd-sized tail (section 2.7.4).
  d.m.driver.queues[0].Add(
      {{gpa, 5}, {gpa + 5, 11}, {gpa + 16, 100, true}, {gpa + 116, 413, true}});
  const auto used = d.m.driver.Complete(0);
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->bytes, 513U);
  EXPECT_EQ(std::memcmp(d.m.ram.At(gpa + 16), content.data() + 512, 512), 0);
  EXPECT_EQ(std::to_integer<int>(*d.m.ram.At(gpa + 528)), VIRTIO_BLK_S_OK);
}

TEST(HeaderAndDataInOneBufferOfAnIndirectTable) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite);
  const virtio_blk_outhdr header{VIRTIO_BLK_T_OUT, 0, 2};
  const uint64_t gpa = d.m.ram.Allocate(1024);
  std::memcpy(d.m.ram.At(gpa), &header, sizeof header);
  std::memset(d.m.ram.At(gpa + 16), 'y', 512);
  const uint64_t table = d.m.ram.Allocate(2 * sizeof(vring_desc));
  const vring_desc entries[] = {{gpa, 528, VRING_DESC_F_NEXT, 1},
                                {gpa + 528, 1, VRING_DESC_F_WRITE, 0}};
  std::memcpy(d.m.ram.At(table), entries, sizeof entries);
  d.m.driver.queues[0].SetDescriptor(0, {table, sizeof entries, VRING_DESC_F_INDIRECT, 0});
  d.m.driver.queues[0].Publish(0);
  ASSERT_TRUE(d.m.driver.Complete(0).has_value());
  EXPECT_EQ(std::to_integer<int>(*d.m.ram.At(gpa + 528)), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 2, 512).data == std::string(512, 'y'));
}

TEST(FileThatShrinksIsAnErrorForTheGuest) {
  DiskMachine d;
  EXPECT_EQ(::ftruncate(d.m.device->Disk().medium->Fd(), 1024), 0);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 0, 1024).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 1, 1024).status, VIRTIO_BLK_S_IOERR);
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
