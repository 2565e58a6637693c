#pragma once
#include <sys/uio.h>
#include <cstring>
#include "base/file.h"
#include "devices/virtio/device.h"
#include "devices/virtio/iovec.h"
namespace vmfork {
class BlockDevice : public VirtioDevice {
 public:
  BlockDevice(std::shared_ptr<const File> f, std::string id) : file_(std::move(f)), id_(std::move(id)) {}
  void Attach(DeviceContext* c) override { context_ = c; }
  uint32_t DeviceId() const override { return 2; }
  uint64_t OfferedFeatures() const override { return 1 << 5; }
  std::vector<uint16_t> QueueSizes() const override { return {64}; }
  void ReadConfig(uint64_t o, std::span<std::byte> d) override { uint64_t n = file_->Size() / 512; CopyConfig(std::as_bytes(std::span(&n, 1)), o, d); }
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override {}
  void ProcessQueues() override {
    auto& q = context_->Queue(0);
    DescriptorChain chain;
    do {
      while (q.Pop(chain)) {
        struct { uint32_t type, r; uint64_t sector; } h{};
        CopyFromIovecs(chain.readable, std::as_writable_bytes(std::span(&h, 1)));
        std::vector<iovec> data, st;
        size_t n = CutIovecs(chain.writable, 0, chain.writable_bytes - 1, data);
        CutIovecs(chain.writable, chain.writable_bytes - 1, 1, st);
        uint8_t status = 2;
        uint32_t w = 0;
        if (h.type == 0) { status = 1; if (preadv(file_->Get(), data.data(), (int)data.size(), (off_t)h.sector * 512) == (ssize_t)n) { status = 0; w = (uint32_t)n; } }
        *(uint8_t*)st[0].iov_base = status;
        q.AddUsed(chain.head, w + 1);
      }
    } while (q.EnableNotification());
  }
  void Save(ByteWriter&) const override {}
  Result<void> Restore(ByteReader&) override { return {}; }
 private:
  DeviceContext* context_ = nullptr;
  std::shared_ptr<const File> file_;
  std::string id_;
};
}
