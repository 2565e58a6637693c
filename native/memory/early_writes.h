// EarlyWrites: the pages that every clone of a snapshot writes as it starts, learned from the first
// ones, so that those to come find their own copies ready. A copy that the guest has to wait for
// costs more than the page: it takes the process's memory lock and is announced to every VM of the
// process (mmu_notifier in mm/memory.c).
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "memory/page_runs.h"

namespace vmfork {

class EarlyWrites {
 public:
  // What a start writes in its most common forms is less; one that writes more takes its time
  // anyway. It is also what a shell that waits takes in memory.
  static constexpr uint64_t kMaxBytes = 512 << 10;

  // What the host itself writes before the guest runs.
  void SetHostWrites(std::span<const PageRun> runs);
  // What one clone had written when it was up. Kept is what several have in common.
  void AddStart(std::span<const PageRun> runs);
  // Whether another start would tell more.
  bool IsWanting() const;
  // In order, no more than kMaxBytes; empty until known.
  std::vector<PageRun> OfHost() const;
  // Those of the host among them; the same until a start is known.
  std::vector<PageRun> OfStart() const;

 private:
  mutable std::mutex mutex_;
  std::vector<PageRun> host_;
  std::vector<PageRun> start_;
  unsigned starts_ = 0;
};

}  // namespace vmfork
