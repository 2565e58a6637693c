// EarlyPages: the pages that every clone of a snapshot uses first, learned from the first ones, so
// that those to come find them in place. A copy that the guest has to wait for costs more than the
// page: it takes the process's memory lock and is announced to every VM of the process
// (mmu_notifier in mm/memory.c).
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "memory/page_runs.h"

namespace vmfork {

// What a machine's memory waits with. In order each.
struct PagesAhead {
  std::vector<PageRun> mapped;  // in the page tables
  std::vector<PageRun> copied;  // the machine's own already
};

class EarlyPages {
 public:
  // What a start writes in its most common forms is less; one that writes more takes its time
  // anyway. It is also what a shell that waits takes in memory.
  static constexpr uint64_t kMaxCopiedBytes = 512 << 10;
  // What is shared with the image takes page tables only.
  static constexpr uint64_t kMaxMappedBytes = 4 << 20;

  // What the host itself uses before the guest runs, and writes of that.
  void SetHostUse(std::span<const PageRun> used, std::span<const PageRun> written);
  bool HasHostUse() const;
  // What one clone had touched when it was up, and written of that. Kept is what several have in
  // common.
  void AddStart(std::span<const PageRun> touched, std::span<const PageRun> written);
  // Whether another start would tell more.
  bool IsWanting() const;

  // For a machine of which only the host's use is certain; empty until known.
  PagesAhead OfHost() const;
  // For one whose guest will come up; the same until enough starts are known.
  PagesAhead OfStart() const;

 private:
  mutable std::mutex mutex_;
  bool has_host_ = false;
  PagesAhead host_;
  PagesAhead start_;
  unsigned starts_ = 0;
};

}  // namespace vmfork
