// The register block and status machine of virtio-mmio, driven as Linux drives
// it and as no driver should; the entropy device stands behind it, the smallest
// there is.
#include "devices/virtio/mmio_transport.h"

#include "devices/virtio/rng.h"
#include "tests/test.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {
namespace {

using Machine = TestMachine<RngDevice>;
constexpr uint32_t kFull = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                           VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

std::optional<DriverQueue::Used> AskForBytes(Machine& m, uint32_t size) {
  const uint64_t gpa = m.ram.Allocate(size);
  m.driver.queues[0].Add({{gpa, size, true}});
  return m.driver.Complete(0);
}

TEST(IdentityRegisters) {
  Machine m;
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976U);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_DEVICE_ID), 4U);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_SHM_LEN_LOW), 0xffff'ffffU);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_SHM_LEN_HIGH), 0xffff'ffffU);
  m.driver.Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_DEVICE_FEATURES) & 1, 1U);  // VERSION_1
  m.driver.Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0xffff'ffff);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_DEVICE_FEATURES), 0U);
  m.driver.Write(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U);
}

TEST(RandomBytesArriveWithAnInterrupt) {
  Machine m;
  m.driver.Start();
  EXPECT_EQ(m.driver.Status(), kFull);
  const uint64_t gpa = m.ram.Allocate(64);
  m.driver.queues[0].Add({{gpa, 64, true}});
  m.driver.Kick(0);
  EXPECT_EQ(m.driver.WaitInterrupt().value_or(0), uint32_t{VIRTIO_MMIO_INT_VRING});
  const auto used = m.driver.queues[0].TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->bytes, 64U);
  const std::vector<std::byte> zeros(64);
  EXPECT_NE(std::memcmp(m.ram.At(gpa), zeros.data(), 64), 0);
}

TEST(RandomBytesPerChainAreBounded) {
  Machine m;
  m.driver.Start();
  EXPECT_EQ(AskForBytes(m, 1 << 20)->bytes, 65'536U);
}

TEST(ChainsMadeAvailableBeforeDriverOkAreServedAfterIt) {
  Machine m;
  m.driver.Negotiate(kAllFeatures);
  DriverQueue queue(m.ram, 64, true);
  m.driver.SetUpQueue(0, queue);
  queue.Add({{m.ram.Allocate(8), 8, true}});
  m.driver.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  m.transport.Notify();
  EXPECT_FALSE(queue.TakeUsed().has_value());
  m.driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_TRUE(m.driver.WaitInterrupt().has_value());
  EXPECT_TRUE(queue.TakeUsed().has_value());
}

TEST(FeaturesMustBeASubsetWithVersion1) {
  const std::vector<uint64_t> unacceptable = {
      0, kPlainFeatures | 1ULL << 5, kPlainFeatures | 1ULL << 63, 1ULL << VIRTIO_RING_F_EVENT_IDX};
  for (const uint64_t features : unacceptable) {
    Machine m;
    m.driver.Negotiate(features);
    EXPECT_EQ(m.driver.Status() & VIRTIO_CONFIG_S_FEATURES_OK, 0U);
    m.driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
    EXPECT_EQ(m.driver.Status() & VIRTIO_CONFIG_S_DRIVER_OK, 0U);
  }
}

TEST(StatusBitsOnlyInTheirOrder) {
  Machine m;
  for (const int bit : {VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_FEATURES_OK,
                        VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET}) {
    m.driver.Write(VIRTIO_MMIO_STATUS, static_cast<uint32_t>(bit));
    EXPECT_EQ(m.driver.Status(), 0U);
  }
  m.driver.Start();
  m.driver.Write(VIRTIO_MMIO_STATUS,
                 VIRTIO_CONFIG_S_ACKNOWLEDGE);  // bits cannot be taken back
  EXPECT_EQ(m.driver.Status(), kFull);
  EXPECT_GT(m.transport.Violations(), 0U);
}

TEST(FeaturesAreSettledByFeaturesOk) {
  Machine m;
  m.driver.Negotiate(kPlainFeatures);
  m.driver.WriteFeatures(~uint64_t{0});
  m.driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  EXPECT_EQ(m.driver.Status(), kFull);
}

TEST(QueuesDoNotChangeOnceReadyOrRunning) {
  Machine m;
  m.driver.Start();
  // Were any of this taken over, the next request would go out of memory.
  m.driver.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
  m.driver.Write(VIRTIO_MMIO_QUEUE_NUM, 0x8000);
  m.driver.Write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xffff);
  m.driver.Write(VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff'fff0);
  m.driver.Write(VIRTIO_MMIO_QUEUE_READY, 0);
  m.driver.Write(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_QUEUE_READY), 1U);
  EXPECT_EQ(AskForBytes(m, 16)->bytes, 16U);
}

TEST(QueueOutsideOfMemoryDoesNotGetReady) {
  Machine m;
  m.driver.Negotiate(kAllFeatures);
  DriverQueue queue(m.ram, 64, true);
  queue.used = m.ram.Size();
  m.driver.SetUpQueue(0, queue);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_QUEUE_READY), 0U);
  m.driver.Write(VIRTIO_MMIO_QUEUE_NUM, 0x1'0040);  // 64 in its low 16 bits
  m.driver.Write(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_QUEUE_READY), 0U);
  m.driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  m.driver.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  m.transport.Notify();
}

TEST(BrokenRingAsksForResetAndWorksAfterIt) {
  Machine m;
  m.driver.Start();
  m.driver.queues[0].SetDescriptor(0, {UINT64_MAX, 8, VRING_DESC_F_WRITE, 0});
  m.driver.queues[0].Publish(0);
  m.transport.Notify();
  EXPECT_NE(m.driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
  EXPECT_EQ(m.driver.WaitInterrupt().value_or(0), uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_EQ(m.transport.Violations(), 1U);
  m.driver.AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  m.transport.Notify();
  EXPECT_NE(m.driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
  m.driver.Start();
  EXPECT_EQ(m.driver.Status(), kFull);
  EXPECT_EQ(AskForBytes(m, 16)->bytes, 16U);
}

TEST(ResetForgetsEverything) {
  Machine m;
  for (int round = 0; round < 20; ++round) {
    m.driver.Start();
    EXPECT_EQ(AskForBytes(m, 8)->bytes, 8U);
  }
  m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(m.driver.Status(), 0U);
  m.driver.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_QUEUE_READY), 0U);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
}

TEST(OddAccessesAreIgnored) {
  Machine m;
  const uint64_t zeros = 0;
  for (const size_t size : {size_t{1}, size_t{2}, size_t{8}}) {
    for (const uint64_t offset : {0x70ULL, 0x71ULL, 0x6eULL, 0xfeULL, 0xffcULL, 0xfffULL}) {
      m.transport.Write(offset, std::as_bytes(std::span(&zeros, 1)).first(size));
      uint64_t value = 0;
      m.transport.Read(offset, std::as_writable_bytes(std::span(&value, 1)).first(size));
      EXPECT_EQ(value, 0U);
    }
  }
  uint32_t word = 0;
  m.transport.Read(0x72, std::as_writable_bytes(std::span(&word, 1)));
  EXPECT_EQ(word, 0U);
  EXPECT_GT(m.transport.Violations(), 0U);
}

TEST(PausedDeviceWaitsAndResumes) {
  Machine m;
  m.driver.Start();
  m.transport.Pause();
  m.driver.queues[0].Add({{m.ram.Allocate(8), 8, true}});
  m.driver.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  m.transport.Notify();
  EXPECT_FALSE(m.driver.queues[0].TakeUsed().has_value());
  m.transport.Resume();
  EXPECT_TRUE(m.driver.queues[0].TakeUsed().has_value());
}

TEST(StateSurvivesSaveAndRestore) {
  Machine m;
  m.driver.Start();
  EXPECT_EQ(AskForBytes(m, 16)->bytes, 16U);
  m.transport.Pause();
  ByteWriter out;
  m.transport.Save(out);

  Machine copy;
  std::memcpy(copy.ram.At(0), m.ram.At(0), m.ram.Size());
  ByteReader in(out.Bytes());
  ASSERT_TRUE(copy.transport.Restore(in).has_value());
  copy.driver.queues = m.driver.queues;
  copy.driver.queues[0].MoveTo(copy.ram);
  copy.transport.Resume();
  EXPECT_EQ(copy.driver.Status(), kFull);
  EXPECT_EQ(AskForBytes(copy, 16)->bytes, 16U);
}

TEST(SavedStateThatCannotBeIsRefused) {
  Machine m;
  m.driver.Start();
  m.transport.Pause();
  ByteWriter out;
  m.transport.Save(out);
  const auto refused = [&](size_t at, uint8_t value) {
    std::vector<std::byte> bytes(out.Bytes().begin(), out.Bytes().end());
    bytes[at] = std::byte{value};
    Machine target;
    ByteReader in(bytes);
    const auto restored = target.transport.Restore(in);
    return !restored && restored.error().code == ErrorCode::kSnapshotInvalid &&
           target.driver.Status() == 0;
  };
  constexpr size_t kStatusAt = 0;
  constexpr size_t kFeaturesAt = 6 * sizeof(uint32_t);
  constexpr size_t kQueueAt = kFeaturesAt + sizeof(uint64_t) + 1;
  EXPECT_TRUE(refused(kStatusAt, VIRTIO_CONFIG_S_DRIVER_OK));
  EXPECT_TRUE(refused(kStatusAt + 1, 1));
  EXPECT_TRUE(refused(kFeaturesAt + 7, 0x80));
  EXPECT_TRUE(refused(kFeaturesAt + 4, 0));  // without VERSION_1
  EXPECT_TRUE(refused(kQueueAt, 3));
  EXPECT_TRUE(refused(kQueueAt + 4 + 7, 0xff));  // descriptors far out of memory
  std::vector<std::byte> longer(out.Bytes().begin(), out.Bytes().end());
  longer.push_back({});
  Machine target;
  ByteReader in(longer);
  EXPECT_FALSE(target.transport.Restore(in).has_value());
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
