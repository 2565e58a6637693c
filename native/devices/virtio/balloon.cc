// Giving reported pages back with madvise(2).
//
// MADV_DONTNEED drops what the VM itself wrote to a page, which then shows the image's page again,
// or zeros where the image has none. A driver must not care what is in a page it gets back, as
// long as PAGE_POISON was not negotiated (section 5.5.6.7), and it is not offered: Linux then uses
// no reporting where its free pages have to keep a pattern (virtballoon_validate() in
// drivers/virtio/virtio_balloon.c). A guest that reports pages in use loses their contents, as if
// it had overwritten them; nobody else has these pages.
#include "devices/virtio/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>

#include <algorithm>
#include <tuple>

#include "memory/gpa.h"

namespace vmfork {

namespace {
// Linux reports up to PAGE_REPORTING_CAPACITY (32) blocks at once and wants a queue of that size.
constexpr uint16_t kQueueSize = 32;
// Queues of features that are not offered do not count (vm_find_vqs() in
// drivers/virtio/virtio_mmio.c): with neither statistics nor hints, reporting is the third.
constexpr size_t kInflateQueue = 0;
constexpr size_t kDeflateQueue = 1;
constexpr size_t kReportingQueue = 2;
// A range costs the kernel time by its length even when nothing is there to drop (KVM looks for
// each page in its own tables), and the loop's thread serves other VMs too. 32 blocks of the
// largest order, 4 MiB; pages beyond stay, which is legal.
constexpr size_t kMaxBytesPerChain = 128 << 20;

// The whole pages inside `buffer`; the rest of a page at either end may be in use.
void GiveBack(const iovec& buffer, size_t limit) {
  auto* const start = static_cast<std::byte*>(buffer.iov_base);
  const size_t before = -reinterpret_cast<uintptr_t>(start) % kPageSize;
  const size_t size = std::min(buffer.iov_len, limit);
  if (size < before + kPageSize) return;
  // It can fail for locked memory only. Then the page keeps its contents, which is legal too.
  const size_t whole = (size - before) / kPageSize * kPageSize;
  std::ignore = ::madvise(start + before, whole, MADV_DONTNEED);
}

void GiveBackAll(std::span<const iovec> buffers) {
  size_t left = kMaxBytesPerChain;
  for (const iovec& buffer : buffers) {
    GiveBack(buffer, left);
    left -= std::min(left, buffer.iov_len);
    if (left == 0) return;
  }
}
}  // namespace

uint32_t BalloonDevice::DeviceId() const { return VIRTIO_ID_BALLOON; }

uint64_t BalloonDevice::OfferedFeatures() const { return 1ULL << VIRTIO_BALLOON_F_REPORTING; }

std::vector<uint16_t> BalloonDevice::QueueSizes() const {
  return {kQueueSize, kQueueSize, kQueueSize};
}

// num_pages and actual, both 0.
void BalloonDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  CopyConfig({}, offset, data);
}

void BalloonDevice::Activate(uint64_t features) {
  reporting_ = (features & 1ULL << VIRTIO_BALLOON_F_REPORTING) != 0;
}

void BalloonDevice::ProcessQueues() {
  // Nothing was asked for: the pages are acknowledged and left as they are.
  for (const size_t index : {kInflateQueue, kDeflateQueue}) {
    DrainQueue(*context_, index, chain_, [](Virtqueue& queue, const DescriptorChain& chain) {
      queue.AddUsed(chain.head, 0);
    });
  }
  if (!reporting_) return;
  DrainQueue(*context_, kReportingQueue, chain_,
             [](Virtqueue& queue, const DescriptorChain& chain) {
               // Section 5.5.6.7: reported pages are device-writable buffers.
               if (!chain.readable.empty())
                 return queue.MarkBroken("a readable buffer among reported pages");
               GiveBackAll(chain.writable);
               queue.AddUsed(chain.head, 0);
             });
}

}  // namespace vmfork
