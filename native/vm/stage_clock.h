// StageClock: nanoseconds per step of a boot or fork, for the report each VM carries.
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "vm/options.h"

namespace vmfork {

class StageClock {
 public:
  // Laps need no memory: the last ones are of a guest that runs.
  StageClock() { stages_.reserve(kMostStages); }
  // The time since the last Lap() (or construction) was `name`'s.
  void Lap(const char* name) {
    const auto now = std::chrono::steady_clock::now();
    stages_.push_back({name, static_cast<uint64_t>(std::chrono::nanoseconds(now - last_).count())});
    last_ = now;
  }
  std::vector<Stage> Take() { return std::move(stages_); }

 private:
  static constexpr size_t kMostStages = 24;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::vector<Stage> stages_;
};

}  // namespace vmfork
