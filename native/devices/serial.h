// Serial: a 16550A port, output only: the guest's early console. What the guest prints is kept in a
// bounded ring.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>

#include "base/byte_io.h"
#include "base/result.h"
#include "devices/bus.h"

namespace vmfork {

class Serial : public BusDevice {
 public:
  static constexpr uint64_t kPort = 0x3f8, kPortCount = 8;

  // `raise_irq` pulses the port's interrupt.
  explicit Serial(std::function<void()> raise_irq) : raise_irq_(std::move(raise_irq)) {}

  // The newest `bytes` are kept from now on; none at first.
  void SetCapacity(size_t bytes);

  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

  // The newest output.
  std::string Tail() const;
  // `watcher` is called on a vCPU thread with each run of new bytes; null: nobody.
  void Watch(std::function<void(std::span<const std::byte>)> watcher);

  void Save(ByteWriter& out) const;
  Result<void> Restore(ByteReader& in);

 private:
  uint8_t ReadRegister(uint64_t offset);
  void WriteRegister(uint64_t offset, uint8_t value);
  uint8_t InterruptId();
  void Emit(uint8_t byte);

  std::function<void()> raise_irq_;
  mutable std::mutex mutex_;  // guards all below
  size_t capacity_ = 0;
  std::string ring_;
  std::string pending_;  // not yet given to the watcher: up to a newline or a small run
  std::function<void(std::span<const std::byte>)> watcher_;
  // Registers, by their names in the 16550's data sheet.
  uint8_t ier_ = 0, fcr_ = 0, lcr_ = 0, mcr_ = 0, scr_ = 0, dll_ = 1, dlm_ = 0;
  bool transmit_interrupt_ = false;
};

}  // namespace vmfork
