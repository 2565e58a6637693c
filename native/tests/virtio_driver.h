// GuestDriver: plays the guest's side of a virtio-mmio device over a buffer of
// memory, in the way Linux does (drivers/virtio/virtio_mmio.c, virtio_ring.c),
// so that devices are tested through their registers and rings. Interrupts and
// notifications are really suppressed and really waited for.
#ifndef VMFORK_TESTS_VIRTIO_DRIVER_H_
#define VMFORK_TESTS_VIRTIO_DRIVER_H_

#define VIRTIO_RING_NO_LEGACY 1
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "base/event_fd.h"
#include "base/event_loop.h"
#include "base/mapping.h"
#include "devices/virtio/mmio_transport.h"

namespace vmfork::testing {

inline constexpr uint64_t kAllFeatures = 1ULL << VIRTIO_F_VERSION_1 |
                                         1ULL << VIRTIO_RING_F_INDIRECT_DESC |
                                         1ULL << VIRTIO_RING_F_EVENT_IDX;
inline constexpr uint64_t kPlainFeatures = 1ULL << VIRTIO_F_VERSION_1;

// Guest RAM from address 0, and an allocator that only goes up.
class TestRam {
 public:
  explicit TestRam(size_t size = 32 << 20)
      : mapping_(
            Mapping::Map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).value()),
        memory_({{Gpa{0}, size, mapping_.Data()}}) {}

  uint64_t Allocate(size_t size, size_t alignment = 16) {
    next_ = (next_ + alignment - 1) / alignment * alignment;
    const uint64_t at = next_;
    next_ += size;
    if (next_ > Size()) std::abort();  // the test's own mistake
    return at;
  }
  std::byte* At(uint64_t gpa) { return mapping_.Data() + gpa; }
  size_t Size() const { return mapping_.Size(); }
  const GuestMemory& Memory() const { return memory_; }

 private:
  Mapping mapping_;
  GuestMemory memory_;
  uint64_t next_ = 4096;
};

struct TestBuffer {
  uint64_t gpa;
  uint32_t size;
  bool device_writes = false;
};

// The driver's side of one split queue.
class DriverQueue {
 public:
  DriverQueue() = default;
  DriverQueue(TestRam& ram, uint16_t size, bool event_idx)
      : ram_(&ram), size_(size), event_idx_(event_idx) {
    descriptors = ram.Allocate(sizeof(vring_desc) * size, 16);
    available = ram.Allocate(6 + 2 * size, 2);
    used = ram.Allocate(6 + 8 * size, 4);
    for (uint16_t i = 0; i < size; ++i) free_.push_back(i);
  }

  // The same ring in a copy of the memory.
  void MoveTo(TestRam& ram) { ram_ = &ram; }

  uint16_t Size() const { return size_; }
  size_t Free() const { return free_.size(); }
  void SetDescriptor(uint16_t index, const vring_desc& descriptor) {
    std::memcpy(ram_->At(descriptors + index * sizeof descriptor), &descriptor, sizeof descriptor);
  }
  // Links the buffers into a chain and makes it available; the head.
  uint16_t Add(const std::vector<TestBuffer>& buffers) {
    std::vector<uint16_t> indices;
    for (size_t i = 0; i < buffers.size(); ++i) {
      indices.push_back(free_.back());
      free_.pop_back();
    }
    for (size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const uint16_t flags = static_cast<uint16_t>(
          (last ? 0 : VRING_DESC_F_NEXT) | (buffers[i].device_writes ? VRING_DESC_F_WRITE : 0));
      SetDescriptor(indices[i],
                    {buffers[i].gpa, buffers[i].size, flags, last ? uint16_t{0} : indices[i + 1]});
    }
    chains_[indices[0]] = indices;
    Publish(indices[0]);
    return indices[0];
  }
  void Publish(uint16_t head) {
    ram_->Memory().Store16(Gpa{available + 4 + 2 * (available_index_ % size_)}, head);
    Atomic(available + 2).store(++available_index_, std::memory_order_seq_cst);
  }
  void SetAvailableIndex(uint16_t index) { Atomic(available + 2).store(index); }
  // Whether the device asked for a notification since the last call
  // (virtqueue_kick_prepare).
  bool NeedsKick() {
    const uint16_t before = kicked_index_;
    kicked_index_ = available_index_;
    if (!event_idx_) return true;
    const uint16_t event = Atomic(used + 4 + 8 * size_).load(std::memory_order_seq_cst);
    return vring_need_event(event, available_index_, before) != 0;
  }

  struct Used {
    uint16_t head;
    uint32_t bytes;
  };
  std::optional<Used> TakeUsed() {
    if (Atomic(used + 2).load(std::memory_order_acquire) == used_index_) return std::nullopt;
    vring_used_elem element;
    std::memcpy(&element, ram_->At(used + 4 + 8 * (used_index_ % size_)), sizeof element);
    ++used_index_;
    const auto head = static_cast<uint16_t>(element.id);
    for (uint16_t index : chains_[head]) free_.push_back(index);
    chains_.erase(head);
    return Used{head, element.len};
  }
  // Asks to be interrupted for the next used chain; true when one is there
  // already.
  bool EnableInterrupt() {
    if (event_idx_) Atomic(available + 4 + 2 * size_).store(used_index_, std::memory_order_seq_cst);
    return Atomic(used + 2).load(std::memory_order_seq_cst) != used_index_;
  }

  uint64_t descriptors = 0;
  uint64_t available = 0;
  uint64_t used = 0;

 private:
  std::atomic_ref<uint16_t> Atomic(uint64_t gpa) {
    return std::atomic_ref(*reinterpret_cast<uint16_t*>(ram_->At(gpa)));
  }
  TestRam* ram_ = nullptr;
  uint16_t size_ = 0;
  bool event_idx_ = false;
  uint16_t available_index_ = 0;
  uint16_t kicked_index_ = 0;
  uint16_t used_index_ = 0;
  std::vector<uint16_t> free_;
  std::map<uint16_t, std::vector<uint16_t>> chains_;
};

class GuestDriver {
 public:
  GuestDriver(VirtioTransport& transport, TestRam& ram, const EventFd& interrupt)
      : transport_(transport), ram_(ram), interrupt_(interrupt) {}

  uint32_t Read(uint64_t offset) {
    uint32_t value = 0;
    transport_.Read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void Write(uint64_t offset, uint32_t value) {
    transport_.Write(offset, std::as_bytes(std::span(&value, 1)));
  }
  uint32_t Status() { return Read(VIRTIO_MMIO_STATUS); }
  void AddStatus(uint32_t bit) { Write(VIRTIO_MMIO_STATUS, Status() | bit); }

  void WriteFeatures(uint64_t features) {
    for (uint32_t word : {1U, 0U}) {
      Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      Write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> (32 * word)));
    }
  }
  void SetUpQueue(uint32_t index, DriverQueue& queue) {
    Write(VIRTIO_MMIO_QUEUE_SEL, index);
    Write(VIRTIO_MMIO_QUEUE_NUM, queue.Size());
    Write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<uint32_t>(queue.descriptors));
    Write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<uint32_t>(queue.available));
    Write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<uint32_t>(queue.used));
    Write(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  // Up to FEATURES_OK.
  void Negotiate(uint64_t features) {
    Write(VIRTIO_MMIO_STATUS, 0);
    AddStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    AddStatus(VIRTIO_CONFIG_S_DRIVER);
    WriteFeatures(features);
    AddStatus(VIRTIO_CONFIG_S_FEATURES_OK);
    features_ = features;
  }
  // The whole of it, with queues of the device's greatest size.
  void Start(uint64_t features = kAllFeatures) {
    Negotiate(features);
    queues.clear();
    for (uint32_t index = 0;; ++index) {
      Write(VIRTIO_MMIO_QUEUE_SEL, index);
      const uint32_t size = Read(VIRTIO_MMIO_QUEUE_NUM_MAX);
      if (size == 0) break;
      queues.emplace_back(ram_, static_cast<uint16_t>(size),
                          (features & 1ULL << VIRTIO_RING_F_EVENT_IDX) != 0);
      SetUpQueue(index, queues.back());
    }
    AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
  }

  // As the ioeventfd does it: the device is told only when it asked to be.
  void Kick(uint32_t index) {
    if (queues[index].NeedsKick()) Write(VIRTIO_MMIO_QUEUE_NOTIFY, index);
  }
  // The interrupt handler: waits for the line, acknowledges; the cause, which
  // is 0 for a spurious one (the cause was seen with an earlier interrupt).
  // Empty: nothing came in time.
  std::optional<uint32_t> WaitInterrupt(int timeout_ms = 10'000) {
    pollfd line{.fd = interrupt_.Get(), .events = POLLIN, .revents = 0};
    if (::poll(&line, 1, timeout_ms) != 1) return std::nullopt;
    interrupt_.Drain();
    const uint32_t cause = Read(VIRTIO_MMIO_INTERRUPT_STATUS);
    Write(VIRTIO_MMIO_INTERRUPT_ACK, cause);
    return cause;
  }
  // Kicks, then sleeps until the queue has a used chain.
  std::optional<DriverQueue::Used> Complete(uint32_t index) {
    Kick(index);
    for (int interrupts = 0; interrupts < 8; ++interrupts) {
      if (auto used = queues[index].TakeUsed()) return used;
      if (queues[index].EnableInterrupt()) continue;
      if (!WaitInterrupt()) return std::nullopt;
    }
    return queues[index].TakeUsed();
  }

  std::vector<DriverQueue> queues;

 private:
  VirtioTransport& transport_;
  TestRam& ram_;
  const EventFd& interrupt_;
  uint64_t features_ = 0;
};

// Everything around a device under test.
template <typename Device>
struct TestMachine {
  template <typename... Arguments>
  explicit TestMachine(Arguments&&... arguments)
      : loop(EventLoop::Start("test").value()),
        interrupt(EventFd::Create().value()),
        device(MakeDevice(std::forward<Arguments>(arguments)...)),
        transport(
            *device, ram.Memory(), [this] { interrupt.Signal(); }, *loop),
        driver(transport, ram, interrupt) {}

  template <typename... Arguments>
  std::unique_ptr<Device> MakeDevice(Arguments&&... arguments) {
    if constexpr (std::is_constructible_v<Device, EventLoop&, Arguments...>) {
      return std::make_unique<Device>(*loop, std::forward<Arguments>(arguments)...);
    } else {
      return std::make_unique<Device>(std::forward<Arguments>(arguments)...);
    }
  }

  TestRam ram;
  std::unique_ptr<EventLoop> loop;
  EventFd interrupt;
  std::unique_ptr<Device> device;
  VirtioTransport transport;
  GuestDriver driver;
};

}  // namespace vmfork::testing

#endif  // VMFORK_TESTS_VIRTIO_DRIVER_H_
