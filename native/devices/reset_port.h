// ResetPort: the keyboard controller's command port, of which only the reset line is wired: how a
// Linux guest with reboot=k ends.
#pragma once

#include <functional>
#include <utility>

#include "devices/bus.h"

namespace vmfork {

class ResetPort : public BusDevice {
 public:
  static constexpr uint64_t kPort = 0x60, kPortCount = 5;

  // While no vCPU runs.
  void SetOwner(std::function<void()> on_reset) { on_reset_ = std::move(on_reset); }

  // Status 0: nothing to read, ready for a command.
  void Read(uint64_t, std::span<std::byte> data) override { data[0] = std::byte{0}; }
  void Write(uint64_t offset, std::span<const std::byte> data) override {
    constexpr uint64_t kCommand = 4;
    constexpr std::byte kPulseResetLine{0xfe};
    if (offset == kCommand && data[0] == kPulseResetLine) on_reset_();
  }

 private:
  std::function<void()> on_reset_;
};

}  // namespace vmfork
