// Packets of the socket device (virtio 1.2, section 5.10.6): layout, and the check of what the
// guest sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "devices/virtio/queue.h"

namespace vmfork {

// struct virtio_vsock_hdr; little-endian, packed.
struct VsockHeader {
  uint64_t src_cid = 0;
  uint64_t dst_cid = 0;
  uint32_t src_port = 0;
  uint32_t dst_port = 0;
  uint32_t length = 0;  // of the payload
  uint16_t type = 0;
  uint16_t op = 0;
  uint32_t flags = 0;
  uint32_t buf_alloc = 0;
  uint32_t fwd_cnt = 0;
} __attribute__((packed));

inline constexpr size_t kVsockHeaderBytes = sizeof(VsockHeader);
static_assert(kVsockHeaderBytes == 44);

inline constexpr uint32_t kVsockHostCid = 2;  // section 5.10.4
inline constexpr uint16_t kVsockStream = 1;   // VIRTIO_VSOCK_TYPE_STREAM

enum class VsockOp : uint16_t {
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

// Flags of kShutdown: what the sender will not do any more.
inline constexpr uint32_t kVsockNoReceive = 1;
inline constexpr uint32_t kVsockNoSend = 2;
inline constexpr uint32_t kVsockNoMore = kVsockNoReceive | kVsockNoSend;

// The header of a packet in the chain's readable part, copied once; empty when there is no whole
// header, or less payload than it says.
std::optional<VsockHeader> ReadVsockHeader(const DescriptorChain& chain);

}  // namespace vmfork
