// StageClock: nanoseconds per step of a boot or fork, for the report each VM carries.
#pragma once

#include <chrono>
#include <vector>

#include "vm/options.h"

namespace vmfork {

class StageClock {
 public:
  // The time since the last Lap() (or construction) was `name`'s.
  void Lap(const char* name) {
    const auto now = std::chrono::steady_clock::now();
    stages_.push_back({name, static_cast<uint64_t>(std::chrono::nanoseconds(now - last_).count())});
    last_ = now;
  }
  std::vector<Stage> Take() { return std::move(stages_); }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::vector<Stage> stages_;
};

}  // namespace vmfork
