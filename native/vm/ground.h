// Ground: what is known of the files in which a loaded snapshot's memory lies. Shared with all that
// was frozen of its clones, whose memory lies partly in them.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "base/result.h"

namespace vmfork {

// Any thread.
class Ground {
 public:
  // They are damaged, and stay so: what was read of them may be in use.
  void Condemn(const Error& damage) {
    std::lock_guard lock(mutex_);
    damage_ = damage;
    is_damaged_ = true;
  }
  // Error: what was found, as one of `operation`.
  Result<void> Check(const char* operation) const {
    if (!is_damaged_) return {};
    std::lock_guard lock(mutex_);
    if (!damage_) return {};
    return Fail(damage_->code, operation, damage_->detail, damage_->error_number);
  }

 private:
  std::atomic<bool> is_damaged_ = false;  // read by every fork
  mutable std::mutex mutex_;              // guards the next one
  std::optional<Error> damage_;
};

}  // namespace vmfork
