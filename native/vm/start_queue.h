// StartQueue: lets a few guests start at a time, in order. Each has the most of its page faults and
// all of its work until it is up in the same moments, and wants a processor for that. Hundreds at
// once stand in each other's way in the host's kernel (mmap_lock), are late for their own timers,
// which makes them work more, and so all take several times as long as they would in turns.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/timer_fd.h"

namespace vmfork {

class StartQueue : private EventHandler {
 public:
  // A turn that has taken so long is not waited for: its guest goes on, and the next one starts.
  // Many times what a start takes on a busy host: a limit that those reach is none, for the more
  // run, the longer each takes.
  static constexpr std::chrono::seconds kLongestTurn{2};

  // A machine's. Must have left before it ends.
  class Place {
   public:
    Place() = default;
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

   private:
    friend class StartQueue;
    enum class State { kOut, kWaiting, kStarting };
    State state_ = State::kOut;
    std::function<void(bool)> start_;
    std::chrono::steady_clock::time_point until_;
    std::list<Place*>::iterator position_;  // in the list that its state names
  };

  // Its timer is served by `loop`, which must outlive it.
  static Result<std::unique_ptr<StartQueue>> Create(EventLoop& loop, size_t at_once);
  ~StartQueue() override;
  size_t AtOnce() const { return at_once_; }

  // Called with whether the turn had to be waited for. Must not block nor use the queue.
  using Start = std::function<void(bool has_waited)>;
  // Calls `start` when its turn comes: at once, here, or later on any thread. Once for each place.
  void Enter(Place& place, Start start);
  // It is up, or will not be: the next one's turn. Any thread, unless within `start`. From then on
  // its `start` is not running and will not be called. Idempotent.
  void Leave(Place& place);

 private:
  StartQueue(EventLoop& loop, size_t at_once, TimerFd timer)
      : loop_(loop), at_once_(at_once), timer_(std::move(timer)) {}
  void OnEvents(uint32_t events) override;  // the turn that began first has taken too long
  // With the lock held.
  void Take(Place& place);
  void StartNext(bool has_waited);

  EventLoop& loop_;
  const size_t at_once_;
  const TimerFd timer_;
  std::mutex mutex_;  // guards all below, and what is in places
  std::list<Place*> waiting_;
  std::list<Place*> starting_;  // in the order of their time
};

}  // namespace vmfork
