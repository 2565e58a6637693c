// 16550A registers (National Semiconductor PC16550D data sheet, section 8).
#include "devices/serial.h"

#include <utility>

namespace vmfork {

namespace {
enum Register : uint64_t {
  kData = 0,
  kIer = 1,
  kIirFcr = 2,
  kLcr = 3,
  kMcr = 4,
  kLsr = 5,
  kMsr = 6,
  kScr = 7
};
constexpr uint8_t kIerTransmit = 0x02;
constexpr uint8_t kIirNone = 0x01, kIirTransmit = 0x02, kIirFifos = 0xc0, kFcrEnable = 0x01;
constexpr uint8_t kLcrDivisorLatch = 0x80;
constexpr uint8_t kMcrLoop = 0x10;
constexpr uint8_t kLsrTransmitterEmpty = 0x60;  // holding register and shift register
constexpr uint8_t kMsrConnected = 0xb0;         // carrier, data set ready, clear to send
constexpr size_t kWatchRunBytes = 256;
}  // namespace

void Serial::SetCapacity(size_t bytes) {
  std::lock_guard lock(mutex_);
  capacity_ = bytes;
}

void Serial::Read(uint64_t offset, std::span<std::byte> data) {
  std::lock_guard lock(mutex_);
  data[0] = std::byte{ReadRegister(offset)};
}

void Serial::Write(uint64_t offset, std::span<const std::byte> data) {
  bool raise = false;
  std::string fresh;
  std::function<void(std::span<const std::byte>)> watcher;
  {
    std::lock_guard lock(mutex_);
    WriteRegister(offset, std::to_integer<uint8_t>(data[0]));
    raise = transmit_interrupt_ && (ier_ & kIerTransmit) != 0;
    if (watcher_ && !pending_.empty() &&
        (pending_.back() == '\n' || pending_.size() >= kWatchRunBytes)) {
      fresh = std::exchange(pending_, {});
      watcher = watcher_;
    }
  }
  if (raise) raise_irq_();
  if (watcher) watcher(std::as_bytes(std::span(fresh)));
}

uint8_t Serial::InterruptId() {
  const uint8_t fifos = (fcr_ & kFcrEnable) != 0 ? kIirFifos : 0;
  if (!transmit_interrupt_ || (ier_ & kIerTransmit) == 0) return fifos | kIirNone;
  transmit_interrupt_ = false;  // reading it acknowledges it
  return fifos | kIirTransmit;
}

uint8_t Serial::ReadRegister(uint64_t offset) {
  const bool divisor = (lcr_ & kLcrDivisorLatch) != 0;
  switch (offset) {
    case kData:
      return divisor ? dll_ : 0;
    case kIer:
      return divisor ? dlm_ : ier_;
    case kIirFcr:
      return InterruptId();
    case kLcr:
      return lcr_;
    case kMcr:
      return mcr_;
    case kLsr:
      return kLsrTransmitterEmpty;
    case kMsr:
      // Loopback feeds the four modem outputs into the four inputs: how drivers recognise the chip.
      if ((mcr_ & kMcrLoop) == 0) return kMsrConnected;
      return static_cast<uint8_t>((mcr_ & 0x02) << 3 | (mcr_ & 0x01) << 5 | (mcr_ & 0x04) << 4 |
                                  (mcr_ & 0x08) << 4);
    case kScr:
      return scr_;
    default:
      return 0xff;
  }
}

void Serial::WriteRegister(uint64_t offset, uint8_t value) {
  const bool divisor = (lcr_ & kLcrDivisorLatch) != 0;
  switch (offset) {
    case kData:
      if (divisor) {
        dll_ = value;
      } else if ((mcr_ & kMcrLoop) == 0) {
        Emit(value);
        transmit_interrupt_ = true;  // sent at once: the register is empty again
      }
      break;
    case kIer:
      if (divisor) {
        dlm_ = value;
      } else {
        // Enabling the interrupt while the register is empty raises it.
        if ((value & kIerTransmit) != 0 && (ier_ & kIerTransmit) == 0) transmit_interrupt_ = true;
        ier_ = value & 0x0f;
      }
      break;
    case kIirFcr:
      fcr_ = value;
      break;
    case kLcr:
      lcr_ = value;
      break;
    case kMcr:
      mcr_ = value & 0x1f;
      break;
    case kScr:
      scr_ = value;
      break;
    default:
      break;
  }
}

void Serial::Emit(uint8_t byte) {
  if (capacity_ == 0) return;
  ring_.push_back(static_cast<char>(byte));
  // Trimmed in halves: a move a byte would be quadratic.
  if (ring_.size() >= 2 * capacity_) ring_.erase(0, ring_.size() - capacity_);
  if (watcher_ && pending_.size() < kWatchRunBytes) pending_.push_back(static_cast<char>(byte));
}

std::string Serial::Tail() const {
  std::lock_guard lock(mutex_);
  return ring_.size() <= capacity_ ? ring_ : ring_.substr(ring_.size() - capacity_);
}

void Serial::Watch(std::function<void(std::span<const std::byte>)> watcher) {
  std::lock_guard lock(mutex_);
  watcher_ = std::move(watcher);
  pending_.clear();
}

void Serial::Save(ByteWriter& out) const {
  std::lock_guard lock(mutex_);
  for (uint8_t value : {ier_, fcr_, lcr_, mcr_, scr_, dll_, dlm_}) out.Put(value);
  out.Put<uint8_t>(transmit_interrupt_ ? 1 : 0);
}

Result<void> Serial::Restore(ByteReader& in) {
  std::lock_guard lock(mutex_);
  for (uint8_t* value : {&ier_, &fcr_, &lcr_, &mcr_, &scr_, &dll_, &dlm_})
    *value = in.Get<uint8_t>();
  transmit_interrupt_ = in.Get<uint8_t>() != 0;
  if (!in.AtEnd()) return Fail(ErrorCode::kSnapshotInvalid, "restore serial", "wrong length");
  return {};
}

}  // namespace vmfork
