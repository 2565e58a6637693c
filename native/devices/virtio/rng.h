#pragma once
#include <sys/random.h>
#include <sys/uio.h>
#include "devices/virtio/device.h"
namespace vmfork {
class RngDevice : public VirtioDevice {
 public:
  void Attach(DeviceContext* c) override { context_ = c; }
  uint32_t DeviceId() const override { return 4; }
  uint64_t OfferedFeatures() const override { return 0; }
  std::vector<uint16_t> QueueSizes() const override { return {64}; }
  void ReadConfig(uint64_t o, std::span<std::byte> d) override { CopyConfig({}, o, d); }
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override {}
  void ProcessQueues() override {
    auto& q = context_->Queue(0);
    DescriptorChain chain;
    do {
      while (q.Pop(chain)) {
        uint32_t n = 0;
        for (auto& v : chain.writable) { auto len = std::min<size_t>(v.iov_len, 256); if (getrandom(v.iov_base, len, 0) == (ssize_t)len) n += len; break; }
        q.AddUsed(chain.head, n);
      }
    } while (q.EnableNotification());
  }
  void Save(ByteWriter&) const override {}
  Result<void> Restore(ByteReader&) override { return {}; }
 private:
  DeviceContext* context_ = nullptr;
};
}
