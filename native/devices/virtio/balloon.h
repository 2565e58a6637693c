// BalloonDevice: the memory balloon (virtio 1.2, section 5.5), for its free page reporting: the
// guest names pages that it does not use, and the host takes the VM's copies of them back. The
// balloon itself stays empty: its target is always 0 pages.
#pragma once

#include "devices/virtio/device.h"

namespace vmfork {

class BalloonDevice : public VirtioDevice {
 public:
  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override;
  uint64_t OfferedFeatures() const override;
  std::vector<uint16_t> QueueSizes() const override;
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t features) override;
  void Reset() override {}
  void ProcessQueues() override;
  // No state: what was reported is gone from the view already.
  void Save(ByteWriter&) const override {}
  Result<void> Restore(ByteReader&) override { return {}; }

 private:
  DeviceContext* context_ = nullptr;
  bool reporting_ = false;  // the driver accepted it
  DescriptorChain chain_;   // reused
};

}  // namespace vmfork
