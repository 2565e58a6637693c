// RngDevice: the entropy device (virtio 1.2, section 5.4). The smallest device: a model for others.
#pragma once

#include "devices/virtio/device.h"

namespace vmfork {

class RngDevice : public VirtioDevice {
 public:
  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override;
  uint64_t OfferedFeatures() const override { return 0; }
  std::vector<uint16_t> QueueSizes() const override;
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override {}
  void ProcessQueues() override;
  // No state: each clone draws its own bytes from the host.
  void Save(ByteWriter&) const override {}
  Result<void> Restore(ByteReader&) override { return {}; }

 private:
  DeviceContext* context_ = nullptr;
  DescriptorChain chain_;  // reused
};

}  // namespace vmfork
