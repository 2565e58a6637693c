// StartQueue: order, bounds, leaving.
#include "vm/start_queue.h"

#include <array>
#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "tests/test.h"

namespace vmfork {
namespace {

constexpr size_t kAtOnce = 2;

class Fixture {
 public:
  Fixture()
      : loop_(EventLoop::Start("start-queue").value()),
        queue_(StartQueue::Create(*loop_, kAtOnce).value()) {}
  StartQueue& Queue() { return *queue_; }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<StartQueue> queue_;
};

TEST(AsManyAsMayStartAtOnceAndTheOthersInOrder) {
  Fixture fixture;
  std::array<StartQueue::Place, 5> places;
  std::vector<std::pair<size_t, bool>> started;
  for (size_t i = 0; i < places.size(); ++i) {
    fixture.Queue().Enter(places[i],
                          [&started, i](bool has_waited) { started.emplace_back(i, has_waited); });
  }
  EXPECT_TRUE((started == std::vector<std::pair<size_t, bool>>{{0, false}, {1, false}}));
  fixture.Queue().Leave(places[1]);
  fixture.Queue().Leave(places[0]);
  EXPECT_TRUE((started ==
               std::vector<std::pair<size_t, bool>>{{0, false}, {1, false}, {2, true}, {3, true}}));
  for (StartQueue::Place& place : places) fixture.Queue().Leave(place);
}

TEST(WhoLeavesBeforeItsTurnIsNotStarted) {
  Fixture fixture;
  std::array<StartQueue::Place, 4> places;
  std::vector<size_t> started;
  for (size_t i = 0; i < places.size(); ++i)
    fixture.Queue().Enter(places[i], [&started, i](bool) { started.push_back(i); });
  fixture.Queue().Leave(places[2]);
  fixture.Queue().Leave(places[2]);
  fixture.Queue().Leave(places[0]);
  EXPECT_TRUE((started == std::vector<size_t>{0, 1, 3}));
  for (StartQueue::Place& place : places) fixture.Queue().Leave(place);
}

TEST(OneThatNeverComesUpHoldsUpTheOthersForItsTurnOnly) {
  Fixture fixture;
  std::array<StartQueue::Place, kAtOnce + 1> places;
  std::promise<bool> last;
  for (size_t i = 0; i < kAtOnce; ++i) fixture.Queue().Enter(places[i], [](bool) {});
  fixture.Queue().Enter(places.back(), [&last](bool has_waited) { last.set_value(has_waited); });
  EXPECT_TRUE(last.get_future().get());
  for (StartQueue::Place& place : places) fixture.Queue().Leave(place);
}

// A machine may go at any moment: after Leave() nothing of it is touched.
TEST(NoStartAfterLeaving) {
  Fixture fixture;
  constexpr int kThreads = 4, kRounds = 500;
  std::atomic<int> starts = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&fixture, &starts] {
      for (int i = 0; i < kRounds; ++i) {
        auto place = std::make_unique<StartQueue::Place>();
        auto alive = std::make_unique<std::atomic<int>>(0);
        fixture.Queue().Enter(*place, [&starts, raw = alive.get()](bool) {
          ++*raw;
          ++starts;
        });
        fixture.Queue().Leave(*place);
        EXPECT_TRUE(*alive <= 1);
        place.reset();
        alive.reset();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(starts > 0);
  EXPECT_TRUE(starts <= kThreads * kRounds);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
