// Virtqueue: the device's side of a split virtqueue (virtio 1.2, section 2.7).
//
// This is the border to a hostile guest. Each field of the ring is read once and checked; a chain
// is walked in at most `size` steps; nothing here allocates by a number that the guest wrote. A
// ring that breaks the rules marks the queue broken, after which it yields nothing until it is
// reset.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/byte_io.h"
#include "base/result.h"
#include "memory/guest_memory.h"

namespace vmfork {

// Buffers that the driver made available together. The iovecs point into guest RAM: the guest may
// change those bytes at any time.
struct DescriptorChain {
  uint16_t head = 0;
  std::vector<iovec> readable;
  std::vector<iovec> writable;
  uint64_t readable_bytes = 0;
  uint64_t writable_bytes = 0;  // together with readable_bytes < 4 GiB
};

class Virtqueue {
 public:
  struct Layout {
    uint16_t size = 0;
    Gpa descriptors;
    Gpa available;
    Gpa used;
  };

  explicit Virtqueue(uint16_t max_size) : max_size_(max_size) {}

  // For the transport.
  uint16_t MaxSize() const { return max_size_; }
  // Checks size, alignment and addresses; the queue is ready when it returns true. `features` are
  // those the driver accepted.
  bool Enable(const GuestMemory& memory, const Layout& layout, uint64_t features);
  void Disable();
  bool Ready() const { return ready_; }
  // Why the queue is broken; nullptr when it is not.
  const char* BrokenReason() const { return broken_reason_; }
  // Whether buffers were used since the last call and the driver wants to be interrupted for them
  // (section 2.7.7.2).
  bool TakeInterrupt();
  void Save(ByteWriter& out) const;
  static constexpr size_t kSavedBytes = 3 * sizeof(uint16_t);  // what Save() writes
  // After Enable().
  Result<void> Restore(ByteReader& in);

  // For devices.
  // The next chain; false when there is none (or the queue is not ready, or broken). Taken and not
  // yet returned are never more than the ring has entries.
  bool Pop(DescriptorChain& chain);
  // Puts the chain that was popped last back; only before any other call.
  void UndoPop() { --last_available_; }
  // Returns a chain to the driver; `bytes_written` went into its writable part.
  void AddUsed(uint16_t head, uint32_t bytes_written);
  // Asks for a notification about the next chain. True when one is there already: go on popping.
  bool EnableNotification();
  // For a device that finds a chain unusable for its purpose.
  void MarkBroken(const char* reason);

 private:
  struct Walk;
  bool ReadChain(uint16_t head, DescriptorChain& chain);
  bool AddBuffer(const Walk& walk, DescriptorChain& chain);
  bool EnterIndirect(Walk& walk);
  uint16_t LoadAvailable(size_t offset) const;

  const uint16_t max_size_;
  const GuestMemory* memory_ = nullptr;
  // The three areas in our address space; they stay valid as long as the guest's RAM does.
  std::span<std::byte> descriptors_;
  std::span<std::byte> available_;
  std::span<std::byte> used_;
  uint16_t size_ = 0;
  bool ready_ = false;
  bool event_idx_ = false;
  bool indirect_ = false;
  const char* broken_reason_ = nullptr;
  uint16_t last_available_ = 0;   // next entry of the available ring to read
  uint16_t available_index_ = 0;  // the driver's index as last read
  uint16_t used_index_ = 0;       // next entry of the used ring to write
  uint16_t signalled_index_ = 0;  // used_index_ at the last TakeInterrupt()
};

}  // namespace vmfork
