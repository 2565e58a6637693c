// What the virtio fuzz targets share: RAM, and a device whose transport is driven by a byte string
// read as a program of register accesses, memory writes and notifications.
#ifndef VMFORK_FUZZ_VIRTIO_FUZZ_MACHINE_H_
#define VMFORK_FUZZ_VIRTIO_FUZZ_MACHINE_H_

#define VIRTIO_RING_NO_LEGACY 1
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <tuple>
#include <vector>

#include "base/byte_io.h"
#include "base/event_loop.h"
#include "base/worker_pool.h"
#include "devices/virtio/block_medium.h"
#include "devices/virtio/mmio_transport.h"

namespace vmfork::fuzzing {

inline constexpr size_t kRamBytes = 64 << 10;

// One loop and one line for all runs: starting a thread for each would be most of the work.
inline EventLoop& Loop() {
  static const std::unique_ptr<EventLoop> loop = EventLoop::Start("fuzz").value();
  return *loop;
}
// The line of a guest that never looks.
inline std::function<void()> Interrupt() {
  return [] {};
}

inline WorkerPool& DiskThreads() {
  static WorkerPool threads(2, "fuzz-disk");
  return threads;
}
inline BlockDisk ScratchDisk(uint64_t size_bytes) {
  return {.medium = BlockMedium::MakeScratch(size_bytes, {}).value(), .serial = "fuzz"};
}

struct Ram {
  std::vector<std::byte> bytes = std::vector<std::byte>(kRamBytes + kPageSize);
  // The rings want alignment, which the vector does not promise.
  std::byte* base =
      bytes.data() + (kPageSize - reinterpret_cast<uintptr_t>(bytes.data()) % kPageSize);
  GuestMemory memory{{{Gpa{0}, kRamBytes, base}}};
};

class FuzzDriver {
 public:
  FuzzDriver(VirtioTransport& transport, Ram& ram) : transport_(transport), ram_(ram) {}

  void Write(uint64_t offset, uint32_t value) {
    transport_.Write(offset, std::as_bytes(std::span(&value, 1)));
  }
  // A legal start with every ring in the first pages, so that the input gets to the queues.
  void Start(uint64_t features, uint32_t queues) {
    uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    Write(VIRTIO_MMIO_STATUS, status);
    for (uint32_t word : {0U, 1U}) {
      Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      Write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> (32 * word)));
    }
    Write(VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
    for (uint32_t queue = 0; queue < queues; ++queue) {
      const uint32_t base = queue * kRingStride;
      Write(VIRTIO_MMIO_QUEUE_SEL, queue);
      Write(VIRTIO_MMIO_QUEUE_NUM, kRingSize);
      Write(VIRTIO_MMIO_QUEUE_DESC_LOW, base);
      Write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 256);
      Write(VIRTIO_MMIO_QUEUE_USED_LOW, base + 512);
      Write(VIRTIO_MMIO_QUEUE_READY, 1);
    }
    Write(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
  }
  // Each step: an opcode byte and its operands; missing operands read as zeros.
  void Run(ByteReader& in) {
    while (in.Ok() && in.Remaining() > 0) Step(in);
  }

  static constexpr uint32_t kRingSize = 8;
  static constexpr uint32_t kRingStride = 1024;

 private:
  void Step(ByteReader& in) {
    switch (in.Get<uint8_t>() % 6) {
      case 0:
        return Write(in.Get<uint16_t>() % 0x120, in.Get<uint32_t>());
      case 1: {
        const uint64_t offset = in.Get<uint16_t>();
        std::byte value[8] = {};
        transport_.Read(offset, std::span(value).first(size_t{1} << in.Get<uint8_t>() % 4));
        return;
      }
      case 2: {
        const uint64_t offset = in.Get<uint16_t>();
        const auto value = in.Get<uint64_t>();
        const size_t size = size_t{1} << in.Get<uint8_t>() % 4;
        return transport_.Write(offset, std::as_bytes(std::span(&value, 1)).first(size));
      }
      case 3: {
        const size_t at = in.Get<uint16_t>();
        const auto bytes = in.GetBytes(std::min<size_t>(in.Get<uint8_t>(), in.Remaining()));
        const size_t size = std::min(bytes.size(), kRamBytes - at);
        std::ranges::copy(bytes.first(size), ram_.base + at);
        return;
      }
      case 4:
        return transport_.Notify();
      default: {
        // Makes a descriptor available in one of the rings.
        const uint32_t ring = in.Get<uint8_t>() % 4 * kRingStride + 256;
        uint16_t index = 0;
        std::memcpy(&index, ram_.base + ring + 2, sizeof index);
        const uint16_t head = in.Get<uint8_t>();
        std::memcpy(ram_.base + ring + 4 + 2 * (index % kRingSize), &head, sizeof head);
        ++index;
        std::memcpy(ram_.base + ring + 2, &index, sizeof index);
        return transport_.Notify();
      }
    }
  }

  VirtioTransport& transport_;
  Ram& ram_;
};

// Saves what the fuzzed device has become and restores it into a new one: what a device writes, it
// must read.
template <typename Device>
void RoundTrip(VirtioTransport& transport, Device& fresh, Ram& ram) {
  transport.Pause();
  ByteWriter out;
  transport.Save(out);
  VirtioTransport copy(fresh, ram.memory, Interrupt(), Loop());
  ByteReader in(out.Bytes());
  const auto restored = copy.Restore(in);
  if (restored) return;
  std::fprintf(stderr, "not restored: %s\n", restored.error().ToString().c_str());
  __builtin_trap();
}

}  // namespace vmfork::fuzzing

#endif  // VMFORK_FUZZ_VIRTIO_FUZZ_MACHINE_H_
