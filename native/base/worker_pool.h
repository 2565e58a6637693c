// WorkerPool: a few threads for steps that block. Not libuv's pool, which the embedding program may
// have filled with its own work.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"

namespace vmfork {

class WorkerPool {
 public:
  // Whether somebody waits for what the threads do; those nobody waits for interrupt no other
  // thread by waking up, and those that nobody will wait for either give way to all others, on the
  // processors and, as the kernel takes it from that, at the disk.
  enum class Kind { kAwaited, kBackground, kLeisure };

  // Throws std::system_error when there can be no more threads, std::bad_alloc.
  WorkerPool(unsigned threads, const char* thread_name, Kind kind = Kind::kAwaited);
  ~WorkerPool();  // runs what was submitted, then joins
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void Submit(std::function<void()> task);

 private:
  void Main(Kind kind);
  void Stop();

  std::mutex mutex_;  // guards tasks_ and stopping_
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace vmfork
