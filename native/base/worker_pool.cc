// Worker threads.
#include "base/worker_pool.h"

#include <pthread.h>

#include "base/signals.h"
#include "base/thread.h"

namespace vmfork {

namespace {
constexpr int kLeastNice = 19;
}  // namespace

WorkerPool::WorkerPool(unsigned threads, const char* thread_name, Kind kind) {
  threads_.reserve(threads);
  try {
    for (unsigned i = 0; i < threads; ++i) {
      threads_.emplace_back([this, kind] { Main(kind); });
      ::pthread_setname_np(threads_.back().native_handle(), thread_name);
    }
  } catch (...) {  // of memory or threads there are no more: not even some are of use
    Stop();
    throw;
  }
}

WorkerPool::~WorkerPool() { Stop(); }

void WorkerPool::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::Submit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void WorkerPool::Main(Kind kind) {
  BlockSignals();
  if (kind == Kind::kBackground) ComputeInBackground(0);
  if (kind == Kind::kLeisure) ComputeInBackground(kLeastNice);
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace vmfork
