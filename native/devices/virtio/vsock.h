// VsockDevice: the socket device (virtio 1.2, section 5.10), stream sockets between guest and host.
// The host end of every connection is one end of a Unix socket pair; the user has the other.
//
// Of the connections in saved state only the control connection continues after a restore, with a
// new host end; the guest is told by a reset packet that each other one is gone. (The transport
// reset event would make Linux reset the control connection too.)
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "devices/virtio/device.h"
#include "devices/virtio/vsock_connection.h"
#include "devices/virtio/vsock_packet.h"

namespace vmfork {

class VsockDevice : public VirtioDevice, private VsockConnection::Owner {
 public:
  using ConnectDone = VsockConnection::ConnectDone;
  using ListenCallback = std::function<void(uint32_t guest_port, UniqueFd fd)>;

  static constexpr size_t kMaxConnections = 1024;  // pending ones too
  static constexpr size_t kMaxResets = 1024;       // waiting for the guest; then its packets wait
  static constexpr uint32_t kFirstHostPort = 1U << 30, kLastHostPort = (1U << 31) - 1;

  // Connections that the guest makes to `control_port` are control connections; the newest counts.
  VsockDevice(EventLoop& loop, uint32_t guest_cid, uint32_t control_port);

  // The calls of the host: any thread. Callbacks run on the loop's thread, without any lock.
  // Errors given to `done`: kConnectionRefused, kGone (the VM or the guest's driver ended), kState
  // (too many connections).
  void Connect(uint32_t port, ConnectDone done);
  // Error: kState, somebody listens there.
  Result<void> Listen(uint32_t port, ListenCallback callback);
  // The callback may run once more for a connection that was already accepted.
  void Unlisten(uint32_t port);
  // After Restore(): gives the control connection its host end, of these sockets when they are
  // valid, else of new ones; returns the user's. The guest gets `first` before whatever the user
  // writes. `on_answer` is called once, when the guest sends something on it, on any thread and
  // with the device's lock held. Error: kState, there is none.
  Result<UniqueFd> AttachControl(VsockSockets sockets = {}, std::span<const std::byte> first = {},
                                 std::function<void()> on_answer = {});
  // After Resume(): whether that host end is in use. Errors: kSystem (it
  // cannot be watched), kGuestIo (the guest has broken the device).
  Result<void> CheckControl();
  // Changes the guest's address. A driver that does not read it again may go on using the old one.
  void SetCid(uint32_t cid);

  void Attach(DeviceContext* context) override { context_ = context; }
  uint32_t DeviceId() const override;
  uint64_t OfferedFeatures() const override { return 0; }
  std::vector<uint16_t> QueueSizes() const override;
  void ReadConfig(uint64_t offset, std::span<std::byte> data) override;
  void WriteConfig(uint64_t, std::span<const std::byte>) override {}
  void Activate(uint64_t features) override;
  void Reset() override;
  void ProcessQueues() override;
  void Resume() override;
  void Shutdown() override;
  void Save(ByteWriter& out) const override;
  Result<void> Restore(ByteReader& in) override;

 private:
  // A reset packet that waits for an rx buffer.
  struct PendingReset {
    VsockKey key;
    uint64_t host_cid = 0;
    uint16_t type = 0;
  };

  void OnSocket(VsockConnection& connection, uint32_t events) override;
  VsockConnection& Add(VsockKey key);
  void Remove(VsockConnection& connection, ErrorCode code);
  void RemoveAll();
  void Close(std::shared_ptr<VsockConnection> connection);
  void Drain(VsockConnection& connection, uint32_t events);
  void Fail(VsockConnection& connection);
  void Attend(VsockConnection& connection);
  uint32_t PickHostPort(uint32_t guest_port);

  void ProcessTx();
  void HandlePacket(const VsockHeader& header, std::span<const iovec> packet);
  void HandleRequest(const VsockHeader& header);
  void HandleForConnection(VsockConnection& connection, const VsockHeader& header,
                           std::span<const iovec> packet);
  void ReplyReset(const VsockHeader& header);

  void ProcessRx();
  bool FillBuffer(Virtqueue& queue);
  bool NextPacket(VsockConnection& connection, VsockHeader& header);
  void PutPacket(Virtqueue& queue, VsockHeader& header);

  EventLoop& loop_;
  const uint32_t control_port_;
  DeviceContext* context_ = nullptr;

  // All below is guarded by the transport's lock.
  uint32_t guest_cid_;
  uint32_t driver_cid_;  // the address that the guest's driver uses: this or an earlier guest_cid_
  std::map<VsockKey, std::unique_ptr<VsockConnection>> connections_;
  // Ended by the guest while the user had not taken all; at most kMaxConnections.
  std::map<VsockConnection*, std::unique_ptr<VsockConnection>> draining_;
  std::deque<VsockConnection*> ready_;  // those that have packets for the guest, served in turn
  std::deque<PendingReset> resets_;
  std::map<uint32_t, ListenCallback> listeners_;
  std::optional<uint32_t> control_guest_port_;
  int control_failure_ = 0;  // errno of the last control connection that its socket ended
  uint32_t next_port_ = kFirstHostPort;
  bool tx_held_ =
      false;  // too many resets wait: no more packets are taken until the guest takes some
  bool shut_down_ = false;
  DescriptorChain tx_chain_, rx_chain_;  // reused
};

}  // namespace vmfork
