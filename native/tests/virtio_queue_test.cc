// The split virtqueue against a driver that breaks its rules: every broken ring
// is found, none is followed out of memory or for ever.
#include "devices/virtio/queue.h"

#include "tests/test.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {
namespace {

constexpr uint16_t kSize = 8;

struct Ring {
  explicit Ring(uint64_t features = kAllFeatures)
      : driver(ram, kSize, (features & 1ULL << VIRTIO_RING_F_EVENT_IDX) != 0), queue(kSize) {
    enabled = queue.Enable(ram.Memory(), Layout(), features);
    data = ram.Allocate(4096);
  }
  Virtqueue::Layout Layout() const {
    return {kSize, Gpa{driver.descriptors}, Gpa{driver.available}, Gpa{driver.used}};
  }
  // One descriptor as a whole chain.
  bool PopsOne(const vring_desc& descriptor) {
    driver.SetDescriptor(0, descriptor);
    driver.Publish(0);
    return queue.Pop(chain);
  }
  bool IsBroken() const { return queue.BrokenReason() != nullptr; }

  TestRam ram;
  DriverQueue driver;
  Virtqueue queue;
  DescriptorChain chain;
  bool enabled = false;
  uint64_t data = 0;
};

TEST(ChainIsSplitIntoReadableAndWritable) {
  Ring r;
  ASSERT_TRUE(r.enabled);
  const uint16_t head =
      r.driver.Add({{r.data, 16}, {r.data + 16, 100, true}, {r.data + 200, 1, true}});
  ASSERT_TRUE(r.queue.Pop(r.chain));
  EXPECT_EQ(r.chain.head, head);
  EXPECT_EQ(r.chain.readable_bytes, 16U);
  EXPECT_EQ(r.chain.writable_bytes, 101U);
  EXPECT_EQ(r.chain.writable.size(), 2U);
  EXPECT_FALSE(r.queue.Pop(r.chain));
  EXPECT_FALSE(r.IsBroken());
  r.queue.AddUsed(head, 101);
  const auto used = r.driver.TakeUsed();
  ASSERT_TRUE(used.has_value());
  EXPECT_EQ(used->head, head);
  EXPECT_EQ(used->bytes, 101U);
}

TEST(IndirectTableIsFollowedOnce) {
  Ring r;
  const uint64_t table = r.ram.Allocate(2 * sizeof(vring_desc));
  const vring_desc entries[] = {{r.data, 8, VRING_DESC_F_NEXT, 1},
                                {r.data + 8, 8, VRING_DESC_F_WRITE, 0}};
  std::memcpy(r.ram.At(table), entries, sizeof entries);
  EXPECT_TRUE(r.PopsOne({table, sizeof entries, VRING_DESC_F_INDIRECT, 0}));
  EXPECT_EQ(r.chain.readable_bytes, 8U);
  EXPECT_EQ(r.chain.writable_bytes, 8U);
}

TEST(IndirectDescriptorsThatBreakTheRules) {
  const uint16_t kIndirect = VRING_DESC_F_INDIRECT;
  const auto broken = [](uint32_t length, uint16_t flags, vring_desc first, uint64_t at = 0,
                         uint64_t features = kAllFeatures) {
    Ring r(features);
    const uint64_t table = r.ram.Allocate(sizeof first);
    std::memcpy(r.ram.At(table), &first, sizeof first);
    return !r.PopsOne({at == 0 ? table : at, length, flags, 0}) && r.IsBroken();
  };
  const vring_desc plain{4096, 8, 0, 0};
  EXPECT_TRUE(broken(0, kIndirect, plain));
  EXPECT_TRUE(broken(15, kIndirect, plain));
  EXPECT_TRUE(broken(16 * (kSize + 1), kIndirect, plain));
  EXPECT_TRUE(broken(16, kIndirect | VRING_DESC_F_NEXT, plain));
  EXPECT_TRUE(broken(16, kIndirect, {4096, 16, kIndirect, 0}));         // nested
  EXPECT_TRUE(broken(16, kIndirect, {4096, 8, VRING_DESC_F_NEXT, 1}));  // leaves its table
  EXPECT_TRUE(broken(16, kIndirect, {4096, 8, VRING_DESC_F_NEXT, 0}));  // loops
  EXPECT_TRUE(broken(16, kIndirect, plain, 1ULL << 40));
  EXPECT_TRUE(broken(16, kIndirect, plain, 0, kPlainFeatures));  // not negotiated
}

TEST(BuffersOutsideOfMemoryBreakTheRing) {
  const auto broken = [](uint64_t address, uint32_t length) {
    Ring r;
    return !r.PopsOne({address, length, 0, 0}) && r.IsBroken();
  };
  const uint64_t end = TestRam().Size();
  EXPECT_TRUE(broken(end, 1));
  EXPECT_TRUE(broken(end - 1, 2));
  EXPECT_TRUE(broken(UINT64_MAX, 2));
  EXPECT_TRUE(broken(UINT64_MAX - 10, 0xffff'ffff));
  EXPECT_TRUE(broken(4096, 0xffff'ffff));
  EXPECT_TRUE(broken(4096, 0));
}

TEST(LoopsAndStrayIndicesBreakTheRing) {
  const auto broken = [](std::vector<vring_desc> table, uint16_t head) {
    Ring r;
    for (size_t i = 0; i < table.size(); ++i)
      r.driver.SetDescriptor(static_cast<uint16_t>(i), table[i]);
    r.driver.Publish(head);
    return !r.queue.Pop(r.chain) && r.IsBroken();
  };
  EXPECT_TRUE(broken({{4096, 8, VRING_DESC_F_NEXT, 0}}, 0));
  EXPECT_TRUE(broken({{4096, 8, VRING_DESC_F_NEXT, 1}, {4096, 8, VRING_DESC_F_NEXT, 0}}, 0));
  EXPECT_TRUE(broken({{4096, 8, VRING_DESC_F_NEXT, kSize}}, 0));
  EXPECT_TRUE(broken({}, kSize));
  EXPECT_TRUE(broken({}, 0xffff));
  // A readable buffer behind a writable one (section 2.7.4.2).
  EXPECT_TRUE(broken({{4096, 8, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1}, {4096, 8, 0, 0}}, 0));
}

TEST(AvailableIndexThatRunsAheadBreaksTheRing) {
  Ring r;
  r.driver.SetAvailableIndex(kSize + 1);
  EXPECT_FALSE(r.queue.Pop(r.chain));
  EXPECT_TRUE(r.IsBroken());
  Ring backwards;
  backwards.driver.SetAvailableIndex(0xffff);
  EXPECT_FALSE(backwards.queue.Pop(backwards.chain));
  EXPECT_TRUE(backwards.IsBroken());
}

TEST(MoreOutstandingThanTheRingHasBreaksIt) {
  Ring r;
  r.driver.SetDescriptor(0, {r.data, 8, 0, 0});
  for (int i = 0; i < kSize; ++i) r.driver.Publish(0);
  for (int i = 0; i < kSize; ++i) EXPECT_TRUE(r.queue.Pop(r.chain));
  r.driver.Publish(0);
  EXPECT_FALSE(r.queue.Pop(r.chain));
  EXPECT_TRUE(r.IsBroken());
  ByteWriter out;  // whatever the guest did, its state can be restored
  r.queue.Save(out);
  Ring copy;
  ByteReader in(out.Bytes());
  EXPECT_TRUE(copy.queue.Restore(in).has_value());
}

TEST(BrokenRingYieldsNothingUntilItIsEnabledAgain) {
  Ring r;
  EXPECT_FALSE(r.PopsOne({UINT64_MAX, 8, 0, 0}));
  r.driver.SetDescriptor(1, {4096, 8, 0, 0});
  r.driver.Publish(1);
  EXPECT_FALSE(r.queue.Pop(r.chain));
  EXPECT_FALSE(r.queue.EnableNotification());
  r.queue.AddUsed(0, 0);
  EXPECT_FALSE(r.driver.TakeUsed().has_value());
}

TEST(SameChainTwiceIsServedTwiceAndNoMore) {
  Ring r;  // the class of the duplicated iovec: nothing is kept from one chain
           // to the next
  r.driver.SetDescriptor(0, {r.data, 8, VRING_DESC_F_WRITE, 0});
  r.driver.Publish(0);
  r.driver.Publish(0);
  EXPECT_TRUE(r.queue.Pop(r.chain));
  EXPECT_TRUE(r.queue.Pop(r.chain));
  EXPECT_EQ(r.chain.writable_bytes, 8U);
  EXPECT_FALSE(r.queue.Pop(r.chain));
}

TEST(RingsMustFitMemoryAndAlignment) {
  Ring r;
  const auto enables = [&](auto change) {
    Virtqueue queue(kSize);
    Virtqueue::Layout layout = r.Layout();
    change(layout);
    return queue.Enable(r.ram.Memory(), layout, kAllFeatures);
  };
  EXPECT_TRUE(enables([](auto&) {}));
  EXPECT_FALSE(enables([](auto& l) { l.size = 0; }));
  EXPECT_FALSE(enables([](auto& l) { l.size = 3; }));
  EXPECT_FALSE(enables([](auto& l) { l.size = 2 * kSize; }));
  EXPECT_FALSE(enables([](auto& l) { l.descriptors.value += 8; }));
  EXPECT_FALSE(enables([](auto& l) { l.available.value += 1; }));
  EXPECT_FALSE(enables([](auto& l) { l.used.value += 2; }));
  const uint64_t end = r.ram.Size();
  EXPECT_FALSE(enables([&](auto& l) { l.descriptors.value = end - 64; }));
  EXPECT_FALSE(enables([&](auto& l) { l.available.value = end - 4; }));
  EXPECT_FALSE(enables([&](auto& l) { l.used.value = end - 16; }));
  EXPECT_FALSE(enables([&](auto& l) { l.used.value = UINT64_MAX - 3; }));
}

TEST(InterruptsComeWhenTheDriverAskedForThem) {
  Ring r;  // EVENT_IDX: the driver names the entry that it waits for
  EXPECT_FALSE(r.queue.TakeInterrupt());
  for (int i = 0; i < 3; ++i) r.driver.Add({{r.data, 8}});
  while (r.queue.Pop(r.chain)) r.queue.AddUsed(r.chain.head, 0);
  EXPECT_TRUE(r.queue.TakeInterrupt());  // it waited for entry 0
  EXPECT_FALSE(r.queue.TakeInterrupt());
  r.driver.Add({{r.data, 8}});
  r.queue.Pop(r.chain);
  r.queue.AddUsed(r.chain.head, 0);
  EXPECT_FALSE(r.queue.TakeInterrupt());  // it has not asked again
  while (r.driver.TakeUsed()) {
  }
  EXPECT_FALSE(r.driver.EnableInterrupt());
  r.driver.Add({{r.data, 8}});
  r.queue.Pop(r.chain);
  r.queue.AddUsed(r.chain.head, 0);
  EXPECT_TRUE(r.queue.TakeInterrupt());
}

TEST(WithoutEventIdxTheFlagDecides) {
  Ring r(kPlainFeatures);
  const auto use_one = [&] {
    r.driver.Add({{r.data, 8}});
    r.queue.Pop(r.chain);
    r.queue.AddUsed(r.chain.head, 0);
  };
  use_one();
  EXPECT_TRUE(r.queue.TakeInterrupt());
  r.ram.Memory().Store16(Gpa{r.driver.available}, VRING_AVAIL_F_NO_INTERRUPT);
  use_one();
  EXPECT_FALSE(r.queue.TakeInterrupt());
}

TEST(NotificationsAreAskedForOnlyWhenTheRingIsEmpty) {
  Ring r;
  r.driver.Add({{r.data, 8}});
  EXPECT_TRUE(r.driver.NeedsKick());
  EXPECT_TRUE(r.queue.EnableNotification());  // one is there: no sleep
  EXPECT_TRUE(r.queue.Pop(r.chain));
  r.driver.Add({{r.data, 8}});
  EXPECT_FALSE(r.driver.NeedsKick());  // the device is still looking
  EXPECT_TRUE(r.queue.Pop(r.chain));
  EXPECT_FALSE(r.queue.EnableNotification());
  r.driver.Add({{r.data, 8}});
  EXPECT_TRUE(r.driver.NeedsKick());
}

TEST(IndicesWrapAround) {
  Ring r;
  for (int i = 0; i < 70'000; ++i) {
    r.driver.Add({{r.data, 8}});
    if (!r.queue.Pop(r.chain)) return Fail(__FILE__, __LINE__, "no chain");
    r.queue.AddUsed(r.chain.head, 0);
    if (!r.driver.TakeUsed()) return Fail(__FILE__, __LINE__, "not used");
  }
}

TEST(SavedIndicesAreChecked) {
  const auto restores = [](uint16_t available, uint16_t used, uint16_t signalled) {
    Ring r;
    ByteWriter out;
    for (uint16_t value : {available, used, signalled}) out.Put(value);
    ByteReader in(out.Bytes());
    return r.queue.Restore(in).has_value();
  };
  EXPECT_TRUE(restores(5, 5, 5));
  EXPECT_TRUE(restores(5, 3, 3));
  EXPECT_FALSE(restores(5, 6, 6));  // more returned than taken
  EXPECT_FALSE(restores(kSize + 1, 0, 0));
  EXPECT_FALSE(restores(5, 5, 6));
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
