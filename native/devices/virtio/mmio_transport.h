// VirtioTransport: the register block of a virtio-mmio device, version 2 (virtio 1.2, section 4.2.2), and the owner of a device's lock.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "base/event_loop.h"
#include "devices/bus.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"

namespace vmfork {

class VirtioTransport : public BusDevice, private DeviceContext {
 public:
  // `interrupt` is what the guest's line hears; all references must outlive this.
  VirtioTransport(VirtioDevice& device, const GuestMemory& memory, const EventFd& interrupt, EventLoop& loop);
  ~VirtioTransport() override;

  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

  // The doorbell rang: queues may have work.
  void Notify();
  // Nothing is processed while paused.
  void Pause();
  void Resume();

  void Save(ByteWriter& out);
  Result<void> Restore(ByteReader& in);

 private:
  struct QueueRegisters {
    uint32_t size = 0;
    uint64_t descriptors = 0, available = 0, used = 0;
    bool ready = false;
  };

  void Enter() override { mutex_.lock(); }
  void Leave() override;
  Virtqueue& Queue(size_t index) override { return queues_[index]; }
  bool Running() const override;
  void ConfigChanged() override;
  void ScheduleWork() override;

  uint32_t ReadRegister(uint64_t offset) const;
  void WriteRegister(uint64_t offset, uint32_t value);
  void WriteQueueRegister(uint64_t offset, uint32_t value);
  void WriteStatus(uint32_t value);
  void SetQueueReady(bool ready);
  bool QueueMayChange() const;
  uint64_t Offered() const;
  void Raise(uint32_t cause);
  void CheckQueues();
  void ResetAll();
  void Process();

  VirtioDevice& device_;
  const GuestMemory& memory_;
  const EventFd& interrupt_;
  EventLoop& loop_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // seen by scheduled work, on the loop's thread only

  std::mutex mutex_;  // guards all below and every call into device_
  std::vector<Virtqueue> queues_;
  std::vector<QueueRegisters> registers_;
  uint32_t status_ = 0;
  uint32_t interrupt_status_ = 0;
  uint32_t device_features_select_ = 0, driver_features_select_ = 0, queue_select_ = 0;
  uint64_t driver_features_ = 0;
  uint32_t config_generation_ = 0;
  bool paused_ = false;
  bool raise_ = false;
};

}  // namespace vmfork
