// Filling buffers with getrandom(2).
#include "devices/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>

namespace vmfork {

namespace {
constexpr uint16_t kQueueSize = 64;
// Random bytes cost host CPU time; a guest that asks for 4 GiB at once gets this much. A shorter
// answer is legal: the driver looks at the length used.
constexpr size_t kMaxBytesPerChain = 64 << 10;

// Returns how many bytes it wrote.
uint32_t FillRandom(std::span<const iovec> buffers) {
  size_t filled = 0;
  for (const iovec& buffer : buffers) {
    const size_t wanted = std::min(buffer.iov_len, kMaxBytesPerChain - filled);
    if (wanted == 0) break;
    const ssize_t got = ::getrandom(buffer.iov_base, wanted, GRND_NONBLOCK);
    if (got > 0) filled += static_cast<size_t>(got);
    // Short after a signal; the bytes used must be the first ones, so stop here.
    if (got < 0 || static_cast<size_t>(got) != wanted) break;
  }
  return static_cast<uint32_t>(filled);
}
}  // namespace

uint32_t RngDevice::DeviceId() const { return VIRTIO_ID_RNG; }

std::vector<uint16_t> RngDevice::QueueSizes() const { return {kQueueSize}; }

void RngDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  CopyConfig({}, offset, data);
}

void RngDevice::ProcessQueues() {
  DrainQueue(*context_, 0, chain_, [](Virtqueue& queue, const DescriptorChain& chain) {
    // Section 5.4.6.1: buffers are device-writable only.
    if (!chain.readable.empty())
      return queue.MarkBroken("a readable buffer for the entropy device");
    queue.AddUsed(chain.head, FillRandom(chain.writable));
  });
}

}  // namespace vmfork
