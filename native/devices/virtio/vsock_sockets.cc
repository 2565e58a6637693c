// Making socket pairs.
#include "devices/virtio/vsock_sockets.h"

#include <sys/socket.h>

#include <array>
#include <tuple>

namespace vmfork {

Result<VsockSockets> VsockSockets::Make() {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair.data()) != 0)
    return FailErrno("socketpair", "vsock connection");
  VsockSockets sockets{.device = UniqueFd(pair[0]), .user = UniqueFd(pair[1])};
  for (const int fd : pair) {
    // Best effort: with the system's default the stream is only slower.
    std::ignore = ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kBufferBytes, sizeof kBufferBytes);
  }
  return sockets;
}

}  // namespace vmfork
