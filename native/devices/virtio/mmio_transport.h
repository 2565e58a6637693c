// VirtioTransport: the register block of a virtio-mmio device, version 2 (virtio 1.2, section
// 4.2.2), and the owner of its device's lock and queues.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_loop.h"
#include "devices/bus.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"

namespace vmfork {

class VirtioTransport final : public BusDevice, private DeviceContext {
 public:
  // `interrupt` pulses the guest's interrupt line; any thread. All references must outlive this.
  // The doorbell (QUEUE_NOTIFY) is the owner's: an ioeventfd whose handler on the loop calls
  // Notify().
  VirtioTransport(VirtioDevice& device, const GuestMemory& memory, std::function<void()> interrupt,
                  EventLoop& loop);
  ~VirtioTransport() override;  // Retire(), unless that was done

  // No vCPU may run any more. Shuts the device down. Afterwards nothing of it runs on the loop; but
  // when called on the loop's thread, only once what had been posted before has run.
  void Retire();

  void Read(uint64_t offset, std::span<std::byte> data) override;
  void Write(uint64_t offset, std::span<const std::byte> data) override;

  // The doorbell rang: queues may have work.
  void Notify();
  // Nothing is processed and no socket is read while paused.
  void Pause();
  // Takes up what waited.
  void Resume();

  // Paused, vCPUs stopped.
  void Save(ByteWriter& out);
  // For a transport that no driver has touched. It is left paused; after an error, reset.
  Result<void> Restore(ByteReader& in);

  // Times that the driver broke a rule so far, including a ring found broken. For tests and
  // diagnosis.
  uint64_t Violations() {
    DeviceLock lock(*this);
    return violations_;
  }

 private:
  struct QueueRegisters {
    uint32_t size = 0;
    uint64_t descriptors = 0;
    uint64_t available = 0;
    uint64_t used = 0;
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
  void WriteDriverFeatures(uint32_t value);
  void WriteStatus(uint32_t value);
  bool MaySet(uint32_t bit) const;
  void SetQueueReady(uint32_t value);
  bool EnableQueue(size_t index);
  uint64_t Offered() const;
  void CheckQueues();
  void ResetAll();
  Result<void> RestoreLocked(ByteReader& in);
  bool StatusIsPossible() const;
  Result<void> RestoreQueue(size_t index, ByteReader& in);

  VirtioDevice& device_;
  const GuestMemory& memory_;
  const std::function<void()> interrupt_;
  EventLoop& loop_;
  std::atomic<bool> work_scheduled_ = false;  // at most one task in the loop's list
  // For tasks that outlive the transport; touched on the loop's thread only.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);

  std::mutex mutex_;  // guards all below and every call into device_
  std::vector<Virtqueue> queues_;
  std::vector<QueueRegisters> registers_;  // of the queue of the same index
  uint32_t status_ = 0;
  uint32_t interrupt_status_ = 0;
  uint32_t device_features_select_ = 0;
  uint32_t driver_features_select_ = 0;
  uint32_t queue_select_ = 0;
  uint32_t config_generation_ = 0;
  uint64_t driver_features_ = 0;
  uint64_t violations_ = 0;
  bool paused_ = false;
  bool interrupt_due_ = false;  // to be signalled by Leave()
};

}  // namespace vmfork
