// What the MMIO transport and a virtio device say to each other (virtio 1.2, section 2).
//
// Threads: the transport owns one mutex and holds it around every call into a VirtioDevice; the
// device has no lock of its own. Queue work runs on the VM's event loop thread as a rule. Work that
// starts elsewhere (a readable socket, a call of the host) takes a DeviceLock first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/byte_io.h"
#include "base/result.h"
#include "devices/virtio/queue.h"

namespace vmfork {

// The transport as its device sees it.
class DeviceContext {
 public:
  virtual ~DeviceContext() = default;

  virtual void Enter() = 0;  // takes the lock; through DeviceLock only
  virtual void Leave() = 0;  // sends the interrupts that are due, then releases the lock

  // Everything below needs the lock.
  virtual Virtqueue& Queue(size_t index) = 0;
  // DRIVER_OK, not paused, not broken: queues may be touched.
  virtual bool Running() const = 0;
  // The configuration space has changed: new generation, configuration interrupt.
  virtual void ConfigChanged() = 0;
  // Calls ProcessQueues() again soon; for a handler that stops at its bound with work left.
  virtual void ScheduleWork() = 0;
};

class DeviceLock {
 public:
  explicit DeviceLock(DeviceContext& context) : context_(context) { context_.Enter(); }
  ~DeviceLock() { context_.Leave(); }
  DeviceLock(const DeviceLock&) = delete;
  DeviceLock& operator=(const DeviceLock&) = delete;

 private:
  DeviceContext& context_;
};

class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  // The transport's constructor passes itself before anything else is called.
  virtual void Attach(DeviceContext* context) = 0;

  virtual uint32_t DeviceId() const = 0;         // virtio 1.2, section 5
  virtual uint64_t OfferedFeatures() const = 0;  // the transport adds VERSION_1 and ring features
  virtual std::vector<uint16_t> QueueSizes() const = 0;
  // An offset past the configuration space reads as zeros and writes nowhere.
  virtual void ReadConfig(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void WriteConfig(uint64_t offset, std::span<const std::byte> data) = 0;

  // The driver set DRIVER_OK: queues are ready for use. Also called just before Restore() when the
  // saved transport had been activated.
  virtual void Activate(uint64_t features) = 0;
  // The driver reset the device, or the VM ends: forget the driver's state, drop host resources it
  // caused. Must be harmless when called twice.
  virtual void Reset() = 0;
  // The driver notified (or something else says that queues may have work): process what is there,
  // within a bound (then ScheduleWork).
  virtual void ProcessQueues() = 0;
  // A pause has begun (Running() is false): return when no other thread works for the device any
  // more. Called without the lock.
  virtual void Quiesce() {}
  // After a pause: take up what waited.
  virtual void Resume() { ProcessQueues(); }
  // The transport goes away. Called once, without the lock; afterwards no handler of the device
  // runs any more.
  virtual void Shutdown() {}

  // Device state beyond the transport's. Restore treats its input as hostile.
  virtual void Save(ByteWriter& out) const = 0;
  virtual Result<void> Restore(ByteReader& in) = 0;
};

// Takes chains off a queue and calls handle(queue, chain) for each, then asks to be notified of the
// next. The loop's thread serves other VMs too, so a driver that never stops making chains
// available is served in turns.
template <typename Handle>
void DrainQueue(DeviceContext& context, size_t index, DescriptorChain& chain, Handle handle) {
  Virtqueue& queue = context.Queue(index);
  const size_t turn = size_t{2} * queue.MaxSize();
  size_t done = 0;
  do {
    while (queue.Pop(chain)) {
      handle(queue, chain);
      if (++done >= turn) return context.ScheduleWork();
    }
    // Counted too: a driver may move its index to and fro.
    if (++done >= turn) return context.ScheduleWork();
  } while (queue.EnableNotification());
}

// ReadConfig() for a device whose configuration space is a plain structure.
inline void CopyConfig(std::span<const std::byte> config, uint64_t offset,
                       std::span<std::byte> data) {
  for (size_t i = 0; i < data.size(); ++i) {
    const bool inside = offset < config.size() && i < config.size() - offset;
    data[i] = inside ? config[offset + i] : std::byte{0};
  }
}

}  // namespace vmfork
