// BlockDevice: a read-only disk over a file (virtio 1.2, section 5.2). All clones of a snapshot
// share the open file and the host's page cache of it.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/file.h"
#include "devices/virtio/device.h"

namespace vmfork {

class BlockDevice : public VirtioDevice {
 public:
  static constexpr uint64_t kSectorBytes = 512;
  static constexpr size_t kIdBytes = 20;  // section 5.2.6: length of the GET_ID answer

  // `id` is what the guest sees as the disk's serial number, cut to kIdBytes. A last partial sector
  // of the file is not visible.
  BlockDevice(std::shared_ptr<const File> file, std::string_view id);

  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override;
  uint64_t OfferedFeatures() const override;
  std::vector<uint16_t> QueueSizes() const override;
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override {}
  void ProcessQueues() override;
  void Save(ByteWriter& out) const override;
  // Refuses state of a disk of another size.
  Result<void> Restore(ByteReader& in) override;

 private:
  void HandleRequest(Virtqueue& queue, const DescriptorChain& chain);
  // Fills data_; a VIRTIO_BLK_S_* status.
  uint8_t Execute(uint32_t type, uint64_t sector, size_t data_bytes);
  uint8_t ReadSectors(uint64_t sector, size_t data_bytes);
  uint8_t WriteId() const;

  DeviceContext* context_ = nullptr;
  const std::shared_ptr<const File> file_;
  const std::string id_;
  const uint64_t capacity_sectors_;
  // Reused, so that requests cause no allocation.
  DescriptorChain chain_;
  std::vector<iovec> data_;
  std::vector<iovec> rest_;
};

}  // namespace vmfork
