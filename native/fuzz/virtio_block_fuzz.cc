// Requests of a hostile guest to a disk: the input is a list of requests with their payload, cut
// into odd segments, in the ring or in indirect tables; media are exchanged and the device is reset
// in between.
#include <linux/virtio_blk.h>

#include "devices/virtio/block.h"
#include "fuzz/virtio_fuzz_machine.h"

namespace {

using namespace vmfork;
using namespace vmfork::fuzzing;

constexpr uint64_t kFeatures = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC;
constexpr uint64_t kDiskBytes = 64 << 10;
constexpr uint32_t kTableAt = 0x1000;    // an indirect table
constexpr uint32_t kRequestAt = 0x4000;  // header and payload, then what the device writes
constexpr uint32_t kAnswerAt = 0x8000;
constexpr uint32_t kMostAnswerBytes = 0x4000;
constexpr uint32_t kMaxSegments = FuzzDriver::kRingSize;

class DiskGuest {
 public:
  explicit DiskGuest(Ram& ram) : ram_(ram) {}

  void Send(ByteReader& in) {
    const auto odd = in.Get<uint8_t>();
    const uint32_t readable = PutRequest(in, odd);
    const uint32_t writable = 1 + in.Get<uint16_t>() % kMostAnswerBytes;
    std::vector<vring_desc> chain;
    Cut(kRequestAt, readable, 0, in, chain);
    Cut(kAnswerAt, writable, VRING_DESC_F_WRITE, in, chain);
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      chain[i].flags |= VRING_DESC_F_NEXT;
      chain[i].next = static_cast<uint16_t>(i + 1);
    }
    const auto bytes = std::as_bytes(std::span(chain));
    const bool indirect = (odd & 1) != 0;
    std::ranges::copy(bytes, ram_.base + (indirect ? kTableAt : 0));
    if (indirect) {
      const vring_desc table{kTableAt, static_cast<uint32_t>(bytes.size()), VRING_DESC_F_INDIRECT,
                             0};
      std::memcpy(ram_.base, &table, sizeof table);
    }
    const uint16_t head = 0;
    std::memcpy(ram_.base + 256 + 4 + 2 * (index_ % FuzzDriver::kRingSize), &head, sizeof head);
    ++index_;
    std::memcpy(ram_.base + 256 + 2, &index_, sizeof index_);
  }
  // Whether as many requests are unanswered as the ring has entries; one more would break it.
  bool RingIsFull() const {
    uint16_t used = 0;
    std::memcpy(&used, ram_.base + 512 + 2, sizeof used);
    return static_cast<uint16_t>(index_ - used) >= FuzzDriver::kRingSize;
  }
  void Forget() {
    index_ = 0;
    std::memcpy(ram_.base + 256 + 2, &index_, sizeof index_);
    std::memcpy(ram_.base + 512 + 2, &index_, sizeof index_);
  }

 private:
  // Header and payload; their size.
  uint32_t PutRequest(ByteReader& in, uint8_t odd) {
    constexpr std::array<uint32_t, 6> kTypes = {VIRTIO_BLK_T_IN,      VIRTIO_BLK_T_OUT,
                                                VIRTIO_BLK_T_FLUSH,   VIRTIO_BLK_T_GET_ID,
                                                VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES};
    virtio_blk_outhdr header{};
    header.type = (odd & 2) != 0 ? in.Get<uint32_t>() : kTypes[in.Get<uint8_t>() % kTypes.size()];
    header.sector = (odd & 4) != 0 ? in.Get<uint64_t>() : in.Get<uint8_t>();
    std::memcpy(ram_.base + kRequestAt, &header, sizeof header);
    const auto payload = in.GetBytes(std::min<size_t>(in.Get<uint16_t>() % 2048, in.Remaining()));
    std::ranges::copy(payload, ram_.base + kRequestAt + sizeof header);
    // Whole sectors, as a rule; what is not given is what lay there before.
    const size_t rounded = (odd & 8) != 0 ? payload.size() : (payload.size() + 511) / 512 * 512;
    return static_cast<uint32_t>(sizeof header + rounded);
  }
  static void Cut(uint32_t at, uint32_t size, uint16_t flags, ByteReader& in,
                  std::vector<vring_desc>& chain) {
    while (size > 0 && chain.size() < kMaxSegments) {
      const uint32_t part = std::min<uint32_t>(size, 1 + in.Get<uint16_t>() % 4096);
      chain.push_back({at, part, flags, 0});
      at += part;
      size -= part;
    }
  }

  Ram& ram_;
  uint16_t index_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader in(std::as_bytes(std::span(data, size)));
  const auto access = (in.Get<uint8_t>() & 1) != 0 ? BlockDevice::Access::kReadOnly
                                                   : BlockDevice::Access::kReadWrite;
  Ram ram;
  const BlockDisk disk = ScratchDisk(kDiskBytes);
  BlockDevice device(DiskThreads(), access, disk);
  VirtioTransport transport(device, ram.memory, Interrupt(), Loop());
  FuzzDriver driver(transport, ram);
  driver.Start(kFeatures, 1);
  DiskGuest guest(ram);
  while (in.Ok() && in.Remaining() > 0) {
    const auto action = in.Get<uint8_t>();
    if (action % 8 == 1) std::ignore = device.Eject();
    if (action % 8 == 2) std::ignore = device.Insert(disk);
    if (action % 8 == 3) transport.Pause(), transport.Resume();
    if (action % 16 == 4) {
      transport.Write(VIRTIO_MMIO_STATUS, std::array<std::byte, 4>{});
      guest.Forget();
      driver.Start(kFeatures, 1);
    }
    // As a rule it waits for room; the pause ends when all is answered.
    if (guest.RingIsFull() && action % 64 != 5) transport.Pause(), transport.Resume();
    guest.Send(in);
    transport.Notify();
  }
  BlockDevice fresh(DiskThreads(), access, device.Disk());
  RoundTrip(transport, fresh, ram);
  return 0;
}
