// Ring access and chain walking.
#include "devices/virtio/queue.h"

#include <linux/virtio_config.h>
#define VIRTIO_RING_NO_LEGACY 1  // the legacy part is not C++
#include <linux/virtio_ring.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <limits>

namespace vmfork {

namespace {

static_assert(std::endian::native == std::endian::little, "ring fields are used as they are");

// Offsets in the available and the used ring (section 2.7.6 and 2.7.8).
constexpr size_t kFlagsOffset = 0;
constexpr size_t kIndexOffset = 2;
constexpr size_t kRingOffset = 4;

std::atomic_ref<uint16_t> At(std::span<std::byte> area, size_t offset) {
  // SAFETY: Enable() checked that the area is 2-byte aligned and has every offset used here;
  // all of them are even. atomic_ref makes racing the guest defined.
  return std::atomic_ref(*reinterpret_cast<uint16_t*>(area.data() + offset));
}

size_t UsedEventOffset(uint16_t size) { return kRingOffset + sizeof(uint16_t) * size; }
size_t AvailEventOffset(uint16_t size) { return kRingOffset + sizeof(vring_used_elem) * size; }

}  // namespace

// Where a walk along a chain has arrived.
struct Virtqueue::Walk {
  std::span<const std::byte> table;
  uint32_t count = 0;  // descriptors in `table`
  vring_desc descriptor{};
  bool in_indirect = false;
};

bool Virtqueue::Enable(const GuestMemory& memory, const Layout& layout, uint64_t features) {
  if (!std::has_single_bit(layout.size) || layout.size > max_size_) return false;
  // Alignments: section 2.7, table of virtqueue parts.
  if (layout.descriptors.value % 16 != 0 || layout.available.value % 2 != 0 ||
      layout.used.value % 4 != 0) {
    return false;
  }
  // Both rings are followed by an event field, whether EVENT_IDX was negotiated or not.
  auto descriptors = memory.Slice(layout.descriptors, sizeof(vring_desc) * layout.size);
  auto available = memory.Slice(layout.available, UsedEventOffset(layout.size) + sizeof(uint16_t));
  auto used = memory.Slice(layout.used, AvailEventOffset(layout.size) + sizeof(uint16_t));
  if (!descriptors || !available || !used) return false;
  Disable();
  memory_ = &memory;
  descriptors_ = *descriptors;
  available_ = *available;
  used_ = *used;
  size_ = layout.size;
  event_idx_ = (features & (1ull << VIRTIO_RING_F_EVENT_IDX)) != 0;
  indirect_ = (features & (1ull << VIRTIO_RING_F_INDIRECT_DESC)) != 0;
  ready_ = true;
  return true;
}

void Virtqueue::Disable() {
  ready_ = false;
  broken_reason_ = nullptr;
  last_available_ = available_index_ = used_index_ = signalled_index_ = 0;
}

void Virtqueue::MarkBroken(const char* reason) {
  if (broken_reason_ == nullptr) broken_reason_ = reason;
}

uint16_t Virtqueue::LoadAvailable(size_t offset) const {
  return At(available_, offset).load(std::memory_order_acquire);
}

bool Virtqueue::Pop(DescriptorChain& chain) {
  if (!ready_ || broken_reason_ != nullptr) return false;
  if (last_available_ == available_index_) {
    const uint16_t index = LoadAvailable(kIndexOffset);
    // Section 2.7: at most as many buffers as the queue's size are queued at any given time, i.e.
    // made available and not yet used.
    const auto outstanding = static_cast<uint16_t>(index - used_index_);
    if (static_cast<uint16_t>(index - last_available_) > size_ || outstanding > size_) {
      MarkBroken("the available index runs ahead of the ring");
      return false;
    }
    available_index_ = index;
    if (last_available_ == index) return false;
  }
  const size_t slot = last_available_ % size_;
  const uint16_t head = LoadAvailable(kRingOffset + slot * sizeof(uint16_t));
  if (!ReadChain(head, chain)) return false;
  ++last_available_;
  return true;
}

bool Virtqueue::ReadChain(uint16_t head, DescriptorChain& chain) {
  chain.head = head;
  chain.readable.clear();
  chain.writable.clear();
  chain.readable_bytes = chain.writable_bytes = 0;

  Walk walk{.table = descriptors_, .count = size_};
  uint32_t index = head;
  // Section 2.7.5.3.1: a chain has at most `size` buffers; one more step enters an indirect table.
  for (uint32_t steps = 0; steps <= size_; ++steps) {
    if (index >= walk.count) {
      MarkBroken("a descriptor index is out of its table");
      return false;
    }
    std::memcpy(&walk.descriptor, walk.table.data() + index * sizeof(vring_desc),
                sizeof walk.descriptor);
    if (walk.descriptor.flags & VRING_DESC_F_INDIRECT) {
      if (!EnterIndirect(walk)) return false;
      index = 0;
      continue;
    }
    if (!AddBuffer(walk, chain)) return false;
    if (!(walk.descriptor.flags & VRING_DESC_F_NEXT)) return true;
    index = walk.descriptor.next;
  }
  MarkBroken("a chain has a loop or is longer than its queue");
  return false;
}

bool Virtqueue::EnterIndirect(Walk& walk) {
  const vring_desc& descriptor = walk.descriptor;
  // Section 2.7.5.3: only when negotiated, not nested, not together with NEXT.
  if (!indirect_ || walk.in_indirect || (descriptor.flags & VRING_DESC_F_NEXT) != 0) {
    MarkBroken("an indirect descriptor where none is allowed");
    return false;
  }
  const uint32_t count = descriptor.len / sizeof(vring_desc);
  if (descriptor.len % sizeof(vring_desc) != 0 || count == 0 || count > size_) {
    MarkBroken("an indirect table of impossible length");
    return false;
  }
  // The table needs no alignment: descriptors are copied out of it byte by byte.
  auto table = memory_->Slice(Gpa{descriptor.addr}, descriptor.len);
  if (!table) {
    MarkBroken("an indirect table outside of memory");
    return false;
  }
  walk.table = *table;
  walk.count = count;
  walk.in_indirect = true;
  return true;
}

bool Virtqueue::AddBuffer(const Walk& walk, DescriptorChain& chain) {
  const vring_desc& descriptor = walk.descriptor;
  auto bytes = memory_->Slice(Gpa{descriptor.addr}, descriptor.len);
  if (!bytes) {  // also for length 0
    MarkBroken("a buffer outside of memory or without length");
    return false;
  }
  // At most `size` lengths of 32 bits are added: 64 bits hold the sum. Section 2.7.5: the total
  // length of a chain fits 32 bits.
  if (chain.readable_bytes + chain.writable_bytes + descriptor.len >
      std::numeric_limits<uint32_t>::max()) {
    MarkBroken("a chain of 4 GiB or more");
    return false;
  }
  if (descriptor.flags & VRING_DESC_F_WRITE) {
    chain.writable.push_back({bytes->data(), bytes->size()});
    chain.writable_bytes += descriptor.len;
    return true;
  }
  if (!chain.writable.empty()) {  // section 2.7.4.2: readable buffers come first
    MarkBroken("a readable buffer behind a writable one");
    return false;
  }
  chain.readable.push_back({bytes->data(), bytes->size()});
  chain.readable_bytes += descriptor.len;
  return true;
}

void Virtqueue::AddUsed(uint16_t head, uint32_t bytes_written) {
  if (!ready_ || broken_reason_ != nullptr) return;
  const vring_used_elem element{.id = head, .len = bytes_written};
  const size_t slot = used_index_ % size_;
  std::memcpy(used_.data() + kRingOffset + slot * sizeof element, &element, sizeof element);
  ++used_index_;
  // Sequentially consistent: TakeInterrupt() must not read the driver's wish before this store.
  At(used_, kIndexOffset).store(used_index_, std::memory_order_seq_cst);
}

bool Virtqueue::EnableNotification() {
  if (!ready_ || broken_reason_ != nullptr) return false;
  if (event_idx_) {
    // Sequentially consistent: the index is looked at once more after the wish is visible, else a
    // chain made available in between would be slept over.
    // Compared first: in a new clone the wish stands there already, and a store would copy the
    // page.
    const auto wish = At(used_, AvailEventOffset(size_));
    if (wish.load(std::memory_order_seq_cst) != last_available_)
      wish.store(last_available_, std::memory_order_seq_cst);
  }
  return At(available_, kIndexOffset).load(std::memory_order_seq_cst) != last_available_;
}

bool Virtqueue::TakeInterrupt() {
  if (!ready_ || used_index_ == signalled_index_) return false;
  const uint16_t before = signalled_index_;
  signalled_index_ = used_index_;
  if (event_idx_) {
    const uint16_t event = At(available_, UsedEventOffset(size_)).load(std::memory_order_seq_cst);
    return vring_need_event(event, used_index_, before) != 0;
  }
  const uint16_t flags = At(available_, kFlagsOffset).load(std::memory_order_seq_cst);
  return (flags & VRING_AVAIL_F_NO_INTERRUPT) == 0;
}

void Virtqueue::Save(ByteWriter& out) const {
  out.Put(last_available_);
  out.Put(used_index_);
  out.Put(signalled_index_);
}

Result<void> Virtqueue::Restore(ByteReader& in) {
  last_available_ = available_index_ = in.Get<uint16_t>();
  used_index_ = in.Get<uint16_t>();
  signalled_index_ = in.Get<uint16_t>();
  // Chains taken and not yet returned; more than the ring has cannot be.
  if (!in.Ok() || static_cast<uint16_t>(last_available_ - used_index_) > size_ ||
      static_cast<uint16_t>(used_index_ - signalled_index_) > size_) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore virtqueue", "impossible ring indices");
  }
  return {};
}

}  // namespace vmfork
