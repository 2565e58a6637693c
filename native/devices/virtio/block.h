// BlockDevice: a disk (virtio 1.2, section 5.2) whose medium can be exchanged while the guest runs.
// An empty drive is a disk of no sectors.
#pragma once

#include <memory>
#include <vector>

#include "base/worker_pool.h"
#include "devices/virtio/block_io.h"
#include "devices/virtio/block_medium.h"
#include "devices/virtio/block_request.h"
#include "devices/virtio/device.h"

namespace vmfork {

class BlockDevice : public VirtioDevice {
 public:
  enum class Access { kReadOnly, kReadWrite };

  // Requests that would block run on `threads`. `access` is what the driver is told at its start.
  BlockDevice(WorkerPool& threads, Access access, BlockDisk disk)
      : access_(access), disk_(std::move(disk)), io_(threads, [this] { Deliver(); }) {}

  // Media are put in and taken out on any thread; the guest is told by a configuration interrupt.
  // Error: kDisk, when there is a medium, or one that is to be written to in a read-only drive.
  Result<void> Insert(BlockDisk disk);
  // Requests under way are finished first; waits for them. Error: kDisk, when there is none.
  Result<void> Eject();
  BlockDisk Disk() const;
  // Goes on with another medium of the same content, of which the guest does not hear. Only while
  // it is paused and has one.
  void Exchange(std::shared_ptr<const BlockMedium> medium);

  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override;
  uint64_t OfferedFeatures() const override;
  std::vector<uint16_t> QueueSizes() const override;
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override;
  void ProcessQueues() override;
  void Quiesce() override { io_.WaitIdle(); }
  void Shutdown() override { io_.WaitIdle(); }
  void Save(ByteWriter& out) const override;
  // Refuses state of a disk of another size.
  Result<void> Restore(ByteReader& in) override;

 private:
  void HandleChain(Virtqueue& queue);
  void Finish(std::unique_ptr<BlockRequest> request);
  void Deliver();
  uint64_t Sectors() const { return disk_.medium == nullptr ? 0 : disk_.medium->Sectors(); }

  DeviceContext* context_ = nullptr;
  const Access access_;
  BlockDisk disk_;
  // Reused, so that requests cause no allocation.
  DescriptorChain chain_;
  std::vector<std::unique_ptr<BlockRequest>> spare_;
  BlockIo io_;
};

}  // namespace vmfork
