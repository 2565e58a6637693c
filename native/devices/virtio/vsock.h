// VsockDevice: the socket device (virtio 1.2, section 5.10). The host end of every connection is one end of a Unix socket pair.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "devices/virtio/device.h"

namespace vmfork {

struct VsockHeader {
  uint64_t src_cid = 0, dst_cid = 0;
  uint32_t src_port = 0, dst_port = 0, length = 0;
  uint16_t type = 0, op = 0;
  uint32_t flags = 0, buf_alloc = 0, fwd_cnt = 0;
} __attribute__((packed));

class VsockDevice : public VirtioDevice {
 public:
  using ConnectDone = std::function<void(Result<UniqueFd>)>;
  using ListenCallback = std::function<void(uint32_t guest_port, UniqueFd fd)>;

  VsockDevice(EventLoop& loop, uint32_t guest_cid, uint32_t control_port);
  ~VsockDevice() override;

  void Connect(uint32_t port, ConnectDone done);
  Result<void> Listen(uint32_t port, ListenCallback callback);
  void Unlisten(uint32_t port);
  Result<UniqueFd> AttachControl();
  void SetCid(uint32_t cid);

  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override { return 19; }
  uint64_t OfferedFeatures() const override { return 0; }
  std::vector<uint16_t> QueueSizes() const override { return {128, 128, 8}; }
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t) override {}
  void Reset() override;
  void ProcessQueues() override;
  void Resume() override;
  void Shutdown() override;
  void Save(ByteWriter& out) const override;
  Result<void> Restore(ByteReader& in) override;

 private:
  struct Connection;
  using Key = std::pair<uint32_t, uint32_t>;  // host port, guest port

  void HandleTx();
  void HandlePacket(const VsockHeader& header, const DescriptorChain& chain);
  void HandleRequest(const VsockHeader& header);
  void PumpRx();
  bool SendData(Connection& connection);
  void QueueControl(uint32_t host_port, uint32_t guest_port, uint16_t op, uint32_t flags, const Connection* connection);
  void SendReset(const VsockHeader& header);
  void Remove(const Key& key);
  void OnSocket(Connection& connection, uint32_t events);
  void FlushToSocket(Connection& connection);
  void UpdateInterest(Connection& connection);
  void UpdateCredit(Connection& connection);
  Result<UniqueFd> AttachSocket(Connection& connection);
  void DropAll(ErrorCode code);

  EventLoop& loop_;
  uint32_t guest_cid_;
  const uint32_t control_port_;
  DeviceContext* context_ = nullptr;
  std::map<Key, std::unique_ptr<Connection>> connections_;
  std::vector<std::unique_ptr<Connection>> graveyard_;
  std::deque<VsockHeader> control_;
  std::map<uint32_t, ListenCallback> listeners_;
  uint32_t next_port_ = 1U << 30;
  bool shut_down_ = false;
};

}  // namespace vmfork
