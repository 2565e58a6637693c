// The balloon as Linux drives it and as no driver should: which pages a report takes back.
#include "devices/virtio/balloon.h"

#include <linux/virtio_balloon.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "tests/test.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {
namespace {

using Machine = TestMachine<BalloonDevice>;
constexpr uint32_t kInflate = 0;
constexpr uint32_t kDeflate = 1;
constexpr uint32_t kReporting = 2;
constexpr uint64_t kFeatures = kAllFeatures | 1ULL << VIRTIO_BALLOON_F_REPORTING;
constexpr uint32_t kPage = 4096;

// `count` pages full of ones.
uint64_t FilledPages(Machine& m, uint32_t count) {
  const uint64_t gpa = m.ram.Allocate(size_t{count} * kPage, kPage);
  std::memset(m.ram.At(gpa), 1, size_t{count} * kPage);
  return gpa;
}

// Of each page from `gpa` on: '1' when all of it is as filled, '0' when all is zero, '?' else.
std::string Show(Machine& m, uint64_t gpa, uint32_t count) {
  std::string text;
  for (uint32_t i = 0; i < count; ++i) {
    const std::span page(m.ram.At(gpa + size_t{i} * kPage), kPage);
    const bool same = std::ranges::all_of(page, [&](std::byte b) { return b == page[0]; });
    text += !same ? '?' : page[0] == std::byte{1} ? '1' : '0';
  }
  return text;
}

std::optional<DriverQueue::Used> Report(Machine& m, const std::vector<TestBuffer>& buffers) {
  m.driver.queues[kReporting].Add(buffers);
  return m.driver.Complete(kReporting);
}

bool IsBroken(Machine& m) {
  m.transport.Notify();
  return (m.driver.Status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
}

TEST(ReportingIsOfferedAndTheBalloonStaysEmpty) {
  Machine m;
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_DEVICE_ID), 5U);
  m.driver.Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  const uint32_t features = m.driver.Read(VIRTIO_MMIO_DEVICE_FEATURES);
  EXPECT_EQ(features & 0xff, 1U << VIRTIO_BALLOON_F_REPORTING);
  m.driver.Start(kFeatures);
  EXPECT_EQ(m.driver.queues.size(), 3U);
  m.driver.Write(VIRTIO_MMIO_CONFIG + 4, 7);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_CONFIG), 0U);
  EXPECT_EQ(m.transport.Violations(), 0U);
}

TEST(ReportedPagesAreTakenBackAndTheirNeighboursStay) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 8);
  const auto used = Report(m, {{gpa + kPage, 2 * kPage, true}, {gpa + 5 * kPage, kPage, true}});
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->bytes, 0U);
  EXPECT_EQ(Show(m, gpa, 8), std::string("10011011"));
}

TEST(ATakenPageTakesNewContents) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 1);
  EXPECT_TRUE(Report(m, {{gpa, kPage, true}}).has_value());
  std::memset(m.ram.At(gpa), 1, kPage);
  EXPECT_EQ(Show(m, gpa, 1), std::string("1"));
}

TEST(OnlyWholePagesInsideABufferAreTakenBack) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 6);
  EXPECT_TRUE(Report(m, {{gpa + 1, 3 * kPage, true}}).has_value());
  EXPECT_EQ(Show(m, gpa, 6), std::string("100111"));
  EXPECT_TRUE(Report(m, {{gpa + 4 * kPage + 16, kPage, true}}).has_value());
  EXPECT_TRUE(Report(m, {{gpa + 5 * kPage, kPage - 1, true}}).has_value());
  EXPECT_TRUE(Report(m, {{gpa + 5 * kPage, 1, true}}).has_value());
  EXPECT_EQ(Show(m, gpa, 6), std::string("100111"));
}

TEST(AReportOutsideOfMemoryBreaksTheDeviceAndTakesNothing) {
  for (const uint64_t past : {uint64_t{0}, uint64_t{kPage}, uint64_t{1} << 40}) {
    Machine m;
    m.driver.Start(kFeatures);
    const uint64_t gpa = FilledPages(m, 1);
    m.driver.queues[kReporting].Add(
        {{gpa, kPage, true}, {m.ram.Size() - kPage + past, 2 * kPage, true}});
    EXPECT_TRUE(IsBroken(m));
    EXPECT_EQ(Show(m, gpa, 1), std::string("1"));
  }
}

TEST(AReportWithoutLengthOrToReadBreaksTheDevice) {
  for (const TestBuffer& buffer : {TestBuffer{kPage, 0, true}, TestBuffer{kPage, kPage, false}}) {
    Machine m;
    m.driver.Start(kFeatures);
    m.driver.queues[kReporting].Add({buffer});
    EXPECT_TRUE(IsBroken(m));
  }
}

TEST(OneReportTakesABoundedPartOfMemory) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 2);
  // Six times 24 MiB in one chain: the sixth is not reached.
  std::vector<TestBuffer> buffers(6, {m.ram.Size() - (24 << 20), 24 << 20, true});
  buffers.back() = {gpa, 2 * kPage, true};
  EXPECT_TRUE(Report(m, buffers).has_value());
  EXPECT_EQ(Show(m, gpa, 2), std::string("00"));
  buffers.insert(buffers.begin(), buffers.front());
  std::memset(m.ram.At(gpa), 1, size_t{2} * kPage);
  EXPECT_TRUE(Report(m, buffers).has_value());
  EXPECT_EQ(Show(m, gpa, 2), std::string("11"));
}

TEST(PagesOfInflateAndDeflateAreAcknowledgedAndStay) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 1);
  const uint64_t list = m.ram.Allocate(sizeof(uint32_t));
  const auto pfn = static_cast<uint32_t>(gpa / kPage);
  std::memcpy(m.ram.At(list), &pfn, sizeof pfn);
  for (const uint32_t queue : {kInflate, kDeflate}) {
    m.driver.queues[queue].Add({{list, sizeof pfn, false}});
    EXPECT_TRUE(m.driver.Complete(queue).has_value());
  }
  EXPECT_EQ(Show(m, gpa, 1), std::string("1"));
}

TEST(WithoutTheFeatureNothingIsReported) {
  Machine m;
  m.driver.Start(kAllFeatures);
  const uint64_t gpa = FilledPages(m, 1);
  m.driver.queues[kReporting].Add({{gpa, kPage, true}});
  m.transport.Notify();
  EXPECT_FALSE(m.driver.queues[kReporting].TakeUsed().has_value());
  EXPECT_EQ(Show(m, gpa, 1), std::string("1"));
}

TEST(NothingIsTakenWhilePaused) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 1);
  m.transport.Pause();
  m.driver.queues[kReporting].Add({{gpa, kPage, true}});
  m.transport.Notify();
  EXPECT_EQ(Show(m, gpa, 1), std::string("1"));
  m.transport.Resume();
  EXPECT_TRUE(m.driver.queues[kReporting].TakeUsed().has_value());
  EXPECT_EQ(Show(m, gpa, 1), std::string("0"));
}

TEST(ARestoredDeviceTakesTheReportThatWaited) {
  Machine m;
  m.driver.Start(kFeatures);
  const uint64_t gpa = FilledPages(m, 1);
  m.transport.Pause();
  m.driver.queues[kReporting].Add({{gpa, kPage, true}});
  ByteWriter saved;
  m.transport.Save(saved);
  BalloonDevice device;
  VirtioTransport copy(device, m.ram.Memory(), [&m] { m.interrupt.Signal(); }, *m.loop);
  ByteReader state(saved.Bytes());
  EXPECT_TRUE(copy.Restore(state).has_value());
  copy.Resume();
  EXPECT_TRUE(m.driver.queues[kReporting].TakeUsed().has_value());
  EXPECT_EQ(Show(m, gpa, 1), std::string("0"));
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
