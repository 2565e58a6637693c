// BlockIo: the requests of one disk that are under way on the I/O threads.
//
// A pool of threads and not io_uring: container runtimes' seccomp profiles and many hosts
// (kernel.io_uring_disabled) forbid that, buffered writes would run on its threads all the same,
// and reads that the page cache answers never get here.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "base/worker_pool.h"
#include "devices/virtio/block_request.h"

namespace vmfork {

class BlockIo {
 public:
  // `deliver` is called on an I/O thread, without a lock, when TakeCompleted() has something.
  BlockIo(WorkerPool& threads, std::function<void()> deliver)
      : threads_(threads), deliver_(std::move(deliver)) {}
  ~BlockIo() { WaitIdle(); }
  BlockIo(const BlockIo&) = delete;
  BlockIo& operator=(const BlockIo&) = delete;

  void Submit(std::unique_ptr<BlockRequest> request);
  // In the order in which they were done; null when there is none.
  std::unique_ptr<BlockRequest> TakeCompleted();
  // Forgets all requests. Waits for those that are being executed: afterwards nothing touches guest
  // memory. The device's lock may be held.
  void Cancel();
  // Returns when all that was submitted is done and delivered. The device's lock must not be held.
  void WaitIdle();

 private:
  void RunOne();

  WorkerPool& threads_;
  const std::function<void()> deliver_;
  std::mutex mutex_;  // guards all below; never held while the device's lock is taken
  std::condition_variable changed_;
  std::deque<std::unique_ptr<BlockRequest>> waiting_;
  std::deque<std::unique_ptr<BlockRequest>> completed_;
  size_t executing_ = 0;
  size_t tasks_ = 0;  // on the threads; each outlasts the request it executes by the delivery
};

}  // namespace vmfork
