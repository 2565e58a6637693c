// Packets of a hostile guest: the input is a list of vsock headers with payload, put into a valid
// ring; the host listens, dials, writes and closes in between.
#include <linux/virtio_vsock.h>
#include <unistd.h>

#include "devices/virtio/vsock.h"
#include "fuzz/virtio_fuzz_machine.h"

namespace {

using namespace vmfork;
using namespace vmfork::fuzzing;

constexpr uint32_t kGuestCid = 3;
constexpr uint32_t kListenPort = 1024;
constexpr uint32_t kPacketAt = 0x4000;   // where packets are put
constexpr uint32_t kBuffersAt = 0x8000;  // receive buffers of the guest
constexpr uint32_t kBufferBytes = 512;

class PacketGuest {
 public:
  explicit PacketGuest(Ram& ram) : ram_(ram) {}

  void PostBuffers() {
    for (uint32_t i = 0; i < FuzzDriver::kRingSize; ++i) {
      SetDescriptor(0, i, {kBuffersAt + i * kBufferBytes, kBufferBytes, VRING_DESC_F_WRITE, 0});
    }
    // The buffers that the device has used are made available again.
    uint16_t used = 0;
    std::memcpy(&used, ram_.base + 512 + 2, sizeof used);
    const auto index = static_cast<uint16_t>(used + FuzzDriver::kRingSize);
    for (uint32_t i = 0; i < FuzzDriver::kRingSize; ++i) Slot(0, i, static_cast<uint16_t>(i));
    std::memcpy(ram_.base + 256 + 2, &index, sizeof index);
  }

  void Send(const virtio_vsock_hdr& header, std::span<const std::byte> payload) {
    std::memcpy(ram_.base + kPacketAt, &header, sizeof header);
    std::ranges::copy(payload, ram_.base + kPacketAt + sizeof header);
    const auto size = static_cast<uint32_t>(sizeof header + payload.size());
    SetDescriptor(1, 0, {kPacketAt, size, 0, 0});
    Slot(1, tx_index_ % FuzzDriver::kRingSize, 0);
    ++tx_index_;
    std::memcpy(ram_.base + FuzzDriver::kRingStride + 256 + 2, &tx_index_, sizeof tx_index_);
  }

 private:
  void SetDescriptor(uint32_t queue, uint32_t index, const vring_desc& descriptor) {
    std::memcpy(ram_.base + queue * FuzzDriver::kRingStride + index * sizeof descriptor,
                &descriptor, sizeof descriptor);
  }
  void Slot(uint32_t queue, uint32_t slot, uint16_t head) {
    std::memcpy(ram_.base + queue * FuzzDriver::kRingStride + 256 + 4 + 2 * slot, &head,
                sizeof head);
  }
  Ram& ram_;
  uint16_t tx_index_ = 0;
};

// Small numbers, so that packets meet the connections that earlier ones opened.
virtio_vsock_hdr ReadHeader(ByteReader& in, uint32_t payload_bytes) {
  virtio_vsock_hdr header{};
  const auto odd = in.Get<uint8_t>();
  header.src_cid = (odd & 1) != 0 ? in.Get<uint32_t>() : kGuestCid;
  header.dst_cid = (odd & 2) != 0 ? in.Get<uint32_t>() : 2;
  header.type = (odd & 4) != 0 ? in.Get<uint16_t>() : uint16_t{VIRTIO_VSOCK_TYPE_STREAM};
  header.len = (odd & 8) != 0 ? in.Get<uint32_t>() : payload_bytes;
  header.op = in.Get<uint8_t>() % 9;
  header.src_port = in.Get<uint8_t>() % 8;
  header.dst_port = (odd & 16) != 0 ? (1U << 30) + in.Get<uint8_t>() % 8 : kListenPort;
  header.flags = in.Get<uint8_t>() % 4;
  header.buf_alloc = (odd & 32) != 0 ? in.Get<uint32_t>() : 256 << 10;
  header.fwd_cnt = (odd & 64) != 0 ? in.Get<uint32_t>() : 0;
  return header;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader in(std::as_bytes(std::span(data, size)));
  Ram ram;
  std::vector<UniqueFd> users;  // on the loop's thread, and here while it rests
  {
    VsockDevice device(Loop(), kGuestCid, kListenPort);
    VirtioTransport transport(device, ram.memory, Interrupt(), Loop());
    FuzzDriver driver(transport, ram);
    const auto keep = [&users](UniqueFd fd) {
      std::ignore = ::write(fd.Get(), "hello", 5);
      users.push_back(std::move(fd));
    };
    std::ignore = device.Listen(kListenPort, [&](uint32_t, UniqueFd fd) { keep(std::move(fd)); });
    driver.Start(1ULL << VIRTIO_F_VERSION_1, 3);
    PacketGuest guest(ram);
    while (in.Ok() && in.Remaining() > 0) {
      const auto action = in.Get<uint8_t>();
      if ((action & 1) != 0) guest.PostBuffers();
      if ((action & 2) != 0) {
        device.Connect(in.Get<uint8_t>() % 8, [&](Result<UniqueFd> fd) {
          if (fd) keep(std::move(*fd));
        });
      }
      if ((action & 4) != 0) Loop().Run([] {});
      if ((action & 8) != 0) Loop().Run([&] { users.clear(); });
      const auto payload_bytes = std::min<size_t>(in.Get<uint8_t>(), in.Remaining());
      const virtio_vsock_hdr header = ReadHeader(in, static_cast<uint32_t>(payload_bytes));
      guest.Send(header, in.GetBytes(std::min(payload_bytes, in.Remaining())));
      transport.Notify();
    }
    VsockDevice fresh(Loop(), kGuestCid, kListenPort);
    RoundTrip(transport, fresh, ram);
  }
  Loop().Run([&] { users.clear(); });
  return 0;
}
