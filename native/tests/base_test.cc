// The base layer: bytes, checksums, event loop, workers.
#include <sys/epoll.h>
#include <unistd.h>

#include <atomic>
#include <latch>

#include "base/byte_io.h"
#include "base/crc32c.h"
#include "base/event_loop.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "base/worker_pool.h"
#include "tests/test.h"

namespace vmfork {
namespace {

TEST(ReaderReturnsWhatWriterPut) {
  ByteWriter out;
  out.Put<uint8_t>(7);
  out.Put<uint64_t>(0x1122334455667788);
  out.PutBlock(std::as_bytes(std::span("abc", 3)));
  ByteReader in(out.Bytes());
  EXPECT_EQ(in.Get<uint8_t>(), 7);
  EXPECT_EQ(in.Get<uint64_t>(), 0x1122334455667788u);
  EXPECT_EQ(in.GetBlock().size(), 3u);
  EXPECT_TRUE(in.AtEnd());
}

TEST(ReaderStaysFailedAfterShortRead) {
  const std::byte bytes[3] = {};
  ByteReader in(bytes);
  EXPECT_EQ(in.Get<uint32_t>(), 0u);
  EXPECT_FALSE(in.Ok());
  EXPECT_EQ(in.Get<uint8_t>(), 0u);
  EXPECT_FALSE(in.AtEnd());
}

TEST(ReaderRefusesBlockLongerThanInput) {
  ByteWriter out;
  out.Put<uint32_t>(UINT32_MAX);
  ByteReader in(out.Bytes());
  EXPECT_TRUE(in.GetBlock().empty());
  EXPECT_FALSE(in.Ok());
}

TEST(Crc32cMatchesRfc3720Vectors) {
  std::vector<std::byte> zeros(32), ones(32, std::byte{0xff});
  EXPECT_EQ(Crc32c(zeros), 0x8a9136aau);
  EXPECT_EQ(Crc32c(ones), 0x62a8ab43u);
}

class Counter : public EventHandler {
 public:
  explicit Counter(EventFd& event) : event_(event) {}
  void OnEvents(uint32_t) override {
    event_.Drain();
    ++count;
  }
  std::atomic<int> count = 0;

 private:
  EventFd& event_;
};

TEST(LoopDeliversUntilRemoved) {
  auto loop = EventLoop::Start("test");
  auto event = EventFd::Create();
  Counter counter(*event);
  EXPECT_TRUE((*loop)->Add(event->Get(), EPOLLIN, &counter).has_value());
  event->Signal();
  while (counter.count == 0) std::this_thread::yield();
  (*loop)->Remove(event->Get(), &counter);
  const int seen = counter.count;
  event->Signal();
  (*loop)->Run([] {});
  EXPECT_EQ(counter.count.load(), seen);
}

TEST(LoopRunsPostedTasksInOrderAndBeforeItEnds) {
  std::vector<int> order;
  {
    auto loop = EventLoop::Start("test");
    for (int i = 0; i < 100; ++i) (*loop)->Post([&order, i] { order.push_back(i); });
  }
  EXPECT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(WorkersRunEverythingSubmitted) {
  std::atomic<int> count = 0;
  {
    WorkerPool pool(3, "test");
    for (int i = 0; i < 200; ++i) pool.Submit([&count] { ++count; });
  }
  EXPECT_EQ(count.load(), 200);
}

// Whether the kernel can read the byte there for us.
bool IsReadable(const std::byte* at) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const UniqueFd out(ends[0]), in(ends[1]);
  return ::write(in.Get(), at, 1) == 1;
}

TEST(StacksShareBlocksAndHaveGuards) {
  ThreadStacks stacks;
  std::vector<ThreadStacks::Stack> taken;
  for (size_t i = 0; i < ThreadStacks::kStacksPerBlock + 1; ++i) {
    auto stack = stacks.Take();
    EXPECT_TRUE(stack.has_value());
    const std::span<std::byte> bytes = stack->Bytes();
    bytes.front() = bytes.back() = std::byte{1};
    EXPECT_TRUE(IsReadable(bytes.data()));
    EXPECT_TRUE(!IsReadable(bytes.data() - 1));
    taken.push_back(std::move(*stack));
  }
  EXPECT_EQ(stacks.Blocks(), 2u);
  taken.pop_back();
  EXPECT_EQ(stacks.Blocks(), 1u);
  taken.erase(taken.begin() + 7);
  taken.push_back(std::move(*stacks.Take()));
  EXPECT_EQ(stacks.Blocks(), 1u);
  taken.clear();
  EXPECT_EQ(stacks.Blocks(), 1u);
}

TEST(AThreadGivesItsStackBackWhenItIsJoined) {
  ThreadStacks stacks;
  auto stack = stacks.Take();
  EXPECT_TRUE(stack.has_value());
  const std::span<std::byte> used = stack->Bytes();
  const std::byte* local = nullptr;
  Thread thread;
  const auto note = [&local] {
    std::byte on_stack{};
    local = &on_stack;
  };
  EXPECT_TRUE(thread.Start("stack", note, std::move(*stack)).has_value());
  thread.Join();
  EXPECT_TRUE(local != nullptr);
#ifndef __SANITIZE_THREAD__  // its thread-local storage is larger than such a stack
  EXPECT_TRUE(local >= used.data() && local < used.data() + used.size());
#endif
  EXPECT_EQ(stacks.Take()->Bytes().data(), used.data());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
