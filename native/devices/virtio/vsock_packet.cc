// Reading a packet's header.
#include "devices/virtio/vsock_packet.h"

#include <span>

#include "devices/virtio/iovec.h"

namespace vmfork {

std::optional<VsockHeader> ReadVsockHeader(const DescriptorChain& chain) {
  VsockHeader header;
  if (!CopyFromIovecs(chain.readable, std::as_writable_bytes(std::span(&header, 1)))) return {};
  if (header.length > chain.readable_bytes - kVsockHeaderBytes) return {};
  return header;
}

}  // namespace vmfork
