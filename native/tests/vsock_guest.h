// The guest's vsock driver for tests: packets out, packets in, over real rings.
#ifndef VMFORK_TESTS_VSOCK_GUEST_H_
#define VMFORK_TESTS_VSOCK_GUEST_H_

#include <linux/virtio_vsock.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <string>
#include <thread>

#include "devices/virtio/vsock.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {

inline constexpr uint64_t kGuestCid = 42;
inline constexpr uint64_t kHostCid = 2;
inline constexpr uint32_t kMaxPayloadBytes = 64 << 10;  // VIRTIO_VSOCK_MAX_PKT_BUF_SIZE
inline constexpr uint32_t kReceiveBufferBytes = 3776;   // as Linux 6.1 posts them

// struct virtio_vsock_hdr, which is packed: its members cannot be referred to.
// On sending, 0 in a cid or in buf_alloc stands for the usual value.
struct PacketHeader {
  uint64_t src_cid = 0;
  uint64_t dst_cid = 0;
  uint32_t src_port = 0;
  uint32_t dst_port = 0;
  uint32_t len = 0;
  uint16_t type = VIRTIO_VSOCK_TYPE_STREAM;
  uint16_t op = 0;
  uint32_t flags = 0;
  uint32_t buf_alloc = 0;
  uint32_t fwd_cnt = 0;
};

struct Packet {
  PacketHeader header;
  std::string payload;
};

// A packet of the guest that answers `header`.
inline PacketHeader Reply(const PacketHeader& header, uint16_t op) {
  return {.src_cid = header.dst_cid,
          .dst_cid = header.src_cid,
          .src_port = header.dst_port,
          .dst_port = header.src_port,
          .op = op};
}

class VsockGuest {
 public:
  VsockGuest(GuestDriver& driver, TestRam& ram) : driver_(&driver), ram_(&ram) {}
  // The same guest in a copy of the machine.
  VsockGuest(const VsockGuest& other, GuestDriver& driver, TestRam& ram) : VsockGuest(other) {
    driver_ = &driver;
    ram_ = &ram;
  }

  void PostBuffers(int count) {
    for (int i = 0; i < count; ++i) {
      const uint64_t gpa = ram_->Allocate(kReceiveBufferBytes);
      buffers_[driver_->queues[0].Add({{gpa, kReceiveBufferBytes, true}})] = gpa;
    }
    driver_->Kick(0);
  }

  bool CanSend() {
    while (auto used = Tx().TakeUsed()) free_tx_.push_back(sent_[used->head]);
    return Tx().Free() >= 2;
  }
  void Send(const PacketHeader& header, const std::string& payload = {}) {
    SendRaw(header, static_cast<uint32_t>(payload.size()), payload);
  }
  // `announced` may lie about the payload.
  void SendRaw(PacketHeader header, uint32_t announced, const std::string& payload) {
    if (header.src_cid == 0) header.src_cid = kGuestCid;
    if (header.dst_cid == 0) header.dst_cid = kHostCid;
    if (header.buf_alloc == 0) header.buf_alloc = buf_alloc;
    CanSend();
    if (free_tx_.empty()) free_tx_.push_back(ram_->Allocate(kVsockHeaderBytes + kMaxPayloadBytes));
    const uint64_t gpa = free_tx_.back();
    free_tx_.pop_back();
    const virtio_vsock_hdr raw{header.src_cid,   header.dst_cid, header.src_port, header.dst_port,
                               announced,        header.type,    header.op,       header.flags,
                               header.buf_alloc, header.fwd_cnt};
    std::memcpy(ram_->At(gpa), &raw, sizeof raw);
    std::memcpy(ram_->At(gpa + sizeof raw), payload.data(), payload.size());
    std::vector<TestBuffer> chain{{gpa, sizeof raw}};
    if (!payload.empty())
      chain.push_back({gpa + sizeof raw, static_cast<uint32_t>(payload.size())});
    sent_[Tx().Add(chain)] = gpa;
    driver_->Kick(1);
  }

  // A packet if there is one already, or comes within the time.
  std::optional<Packet> TryReceive(int timeout_ms = 0) {
    DriverQueue& rx = driver_->queues[0];
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
    for (;;) {
      if (auto used = rx.TakeUsed()) return Take(*used);
      if (rx.EnableInterrupt()) continue;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          until - std::chrono::steady_clock::now());
      if (left.count() <= 0 || !driver_->WaitInterrupt(static_cast<int>(left.count()))) {
        return std::nullopt;
      }
    }
  }
  std::optional<Packet> Receive() { return TryReceive(10'000); }

  uint32_t buf_alloc = 256 << 10;

 private:
  DriverQueue& Tx() { return driver_->queues[1]; }
  Packet Take(const DriverQueue::Used& used) {
    const uint64_t gpa = buffers_[used.head];
    buffers_.erase(used.head);
    virtio_vsock_hdr raw;
    std::memcpy(&raw, ram_->At(gpa), sizeof raw);
    Packet packet{{raw.src_cid, raw.dst_cid, raw.src_port, raw.dst_port, raw.len, raw.type, raw.op,
                   raw.flags, raw.buf_alloc, raw.fwd_cnt},
                  {}};
    packet.payload.assign(reinterpret_cast<char*>(ram_->At(gpa + sizeof raw)),
                          used.bytes - sizeof raw);
    // The buffer goes back at once.
    buffers_[driver_->queues[0].Add({{gpa, kReceiveBufferBytes, true}})] = gpa;
    driver_->Kick(0);
    return packet;
  }

  GuestDriver* driver_;
  TestRam* ram_;
  std::map<uint16_t, uint64_t> buffers_;
  std::map<uint16_t, uint64_t> sent_;
  std::vector<uint64_t> free_tx_;
};

// An established connection, seen from the guest, with the user's end.
struct Stream {
  UniqueFd user;
  PacketHeader from_guest;
  PacketHeader Header(uint16_t op) const {
    PacketHeader header = from_guest;
    header.op = op;
    return header;
  }
};

// The connections that a listener got.
class Accepted {
 public:
  std::pair<uint32_t, UniqueFd> Wait() { return promise_->get_future().get(); }
  VsockDevice::ListenCallback Callback() {
    return [promise = promise_](uint32_t port, UniqueFd fd) {
      promise->set_value({port, std::move(fd)});
    };
  }

 private:
  std::shared_ptr<std::promise<std::pair<uint32_t, UniqueFd>>> promise_ =
      std::make_shared<std::promise<std::pair<uint32_t, UniqueFd>>>();
};

struct VsockMachine : TestMachine<VsockDevice> {
  static constexpr uint32_t kControlPort = 1024;

  explicit VsockMachine(int receive_buffers = 64, bool start = true)
      : TestMachine(uint32_t{kGuestCid}, kControlPort), guest(driver, ram) {
    if (!start) return;
    driver.Start();
    guest.PostBuffers(receive_buffers);
  }
  Accepted ListenOn(uint32_t port) {
    Accepted accepted;
    std::ignore = device->Listen(port, accepted.Callback());
    return accepted;
  }
  // Returns when the device has looked at all that was sent.
  void Settle() { transport.Notify(); }
  Stream ConnectTo(uint32_t guest_port) {
    std::promise<Result<UniqueFd>> result;
    device->Connect(guest_port, [&](Result<UniqueFd> r) { result.set_value(std::move(r)); });
    const auto request = guest.Receive();
    Stream stream{.user = {}, .from_guest = Reply(request->header, 0)};
    guest.Send(stream.Header(VIRTIO_VSOCK_OP_RESPONSE));
    auto user = result.get_future().get();
    if (user) stream.user = std::move(*user);
    return stream;
  }

  VsockGuest guest;
};

inline std::string ReadSome(int fd, size_t size) {
  pollfd state{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&state, 1, 10'000) != 1) return {};
  std::string bytes(size, '\0');
  const ssize_t got = ::read(fd, bytes.data(), size);
  bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return bytes;
}

inline std::string ReadExactly(int fd, size_t size) {
  std::string all;
  while (all.size() < size) {
    const std::string some = ReadSome(fd, size - all.size());
    if (some.empty()) break;
    all += some;
  }
  return all;
}

inline std::string ReadToEnd(int fd) {
  std::string all;
  for (;;) {
    const std::string some = ReadSome(fd, 65536);
    if (some.empty()) return all;
    all += some;
  }
}

}  // namespace vmfork::testing

#endif  // VMFORK_TESTS_VSOCK_GUEST_H_
