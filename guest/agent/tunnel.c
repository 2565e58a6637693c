// A tunnel is a stream with one input and one output, as a command's, over one socket. The socket
// has two descriptors, so that each direction ends by itself as a pipe does.
#include "tunnel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/openat2.h>

#include "container.h"
#include "events.h"
#include "flow.h"
#include "link.h"

struct target {
  char path[PATH_MAX];
  char host[INET6_ADDRSTRLEN];
  uint32_t port;
};

static void fail(uint32_t id, int error, const char* stage) {
  link_send_error(id, error, stage, strerror(error));
}

static bool take_text(const struct tlv* tlv, char* text, size_t capacity) {
  if (tlv->length == 0 || tlv->length >= capacity || memchr(tlv->value, 0, tlv->length)) {
    return false;
  }
  memcpy(text, tlv->value, tlv->length);
  text[tlv->length] = 0;
  return true;
}

static bool parse_one(const struct tlv* tlv, struct target* target) {
  switch (tlv->tag) {
    case kTagPath:
      return take_text(tlv, target->path, sizeof target->path) && target->path[0] == '/';
    case kTagHost:
      return take_text(tlv, target->host, sizeof target->host);
    case kTagPort:
      return tlv_u32(tlv, &target->port) && target->port >= 1 && target->port <= UINT16_MAX;
    default:
      return true;
  }
}

// Either a path or a port must be there, not both.
static bool parse(uint8_t* payload, uint32_t length, struct target* target) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  struct tlv tlv;
  enum tlv_result result;
  target->path[0] = 0;
  target->port = 0;
  strcpy(target->host, "127.0.0.1");
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
    if (!parse_one(&tlv, target)) return false;
  }
  return result == kTlvEnd && (target->path[0] != 0) != (target->port != 0);
}

static int new_socket(int family) {
  return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

// Returns the descriptor, connected or about to be; -1 with errno.
static int connect_or_close(int fd, const struct sockaddr* address, socklen_t length) {
  if (fd < 0 || connect(fd, address, length) == 0 || errno == EINPROGRESS) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static int dial_tcp(const struct target* target) {
  struct sockaddr_in six_less = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target->port)};
  if (inet_pton(AF_INET, target->host, &six_less.sin_addr) == 1) {
    return connect_or_close(new_socket(AF_INET), (struct sockaddr*)&six_less, sizeof six_less);
  }
  struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)target->port)};
  if (inet_pton(AF_INET6, target->host, &six.sin6_addr) == 1) {
    return connect_or_close(new_socket(AF_INET6), (struct sockaddr*)&six, sizeof six);
  }
  errno = EINVAL;
  return -1;
}

// The path is resolved once, below the container's root if there is one, whatever symbolic links
// lie on it; the socket is then dialled by its descriptor, which also lifts the limit of 107 bytes
// on a path (unix(7)).
static int dial_unix(const struct target* target) {
  int container = container_root_fd();
  int root = container >= 0 ? container : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return -1;
  struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
  int found = (int)syscall(SYS_openat2, root, target->path, &how, sizeof how);
  if (container < 0) close(root);
  if (found < 0) return -1;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d", found);
  int fd = connect_or_close(new_socket(AF_UNIX), (struct sockaddr*)&address, sizeof address);
  int error = errno;
  close(found);
  errno = error;
  return fd;
}

// Both directions of the stream, over one socket.
static bool join(struct stream* stream, int fd) {
  stream->outputs[0].fd = fd;
  stream->input.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  stream->input.watched = true;
  return stream->input.fd >= 0;
}

static struct stream* open_stream(uint32_t id, int fd) {
  struct stream* stream = stream_open(id, kTunnel);
  if (!stream) {
    close(fd);
    link_send_error(id, EAGAIN, "limit", "256 streams are open");
    return NULL;
  }
  if (join(stream, fd)) return stream;
  fail(id, errno, "connect");
  stream_close(stream);
  return NULL;
}

void tunnel_dial(const struct frame* frame, uint8_t* payload) {
  static struct target target;
  if (!parse(payload, frame->length, &target)) {
    link_send_error(frame->stream, EINVAL, "decode", "DIAL is malformed or names no target");
    return;
  }
  int fd = target.port != 0 ? dial_tcp(&target) : dial_unix(&target);
  if (fd < 0) {
    fail(frame->stream, errno, "connect");
    return;
  }
  struct stream* stream = open_stream(frame->stream, fd);
  if (!stream) return;
  stream->connecting = true;
  // Not writable until the socket says so, which is also how a connection that failed is told.
  stream->input.writable = false;
  if (events_watch(fd, stream, kWatchSocket)) return;
  fail(frame->stream, errno, "connect");
  stream_close(stream);
}

bool tunnel_adopt(uint32_t id, int fd) {
  struct stream* stream = open_stream(id, fd);
  if (!stream) return false;
  if (events_rewatch(fd, stream, kWatchSocket)) {
    link_send_small(kConnected, id, 0, 0);
    return true;
  }
  fail(id, errno, "connect");
  stream_close(stream);
  return false;
}

void tunnel_reset(struct stream* stream) {
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  int fd = outputs_open(stream) ? stream->outputs[0].fd : stream->input.fd;
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  if (stream->connecting) {
    fail(stream->id, ECANCELED, "connect");
  } else {
    link_send_small(kClosed, stream->id, 0, ECANCELED);
  }
  stream_close(stream);
}

// True once the connection stands; a stream whose connection failed is closed.
static bool connected(struct stream* stream) {
  if (!stream->input.writable || link_room() < kSmallFrameBytes) return false;
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(stream->outputs[0].fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) error = errno;
  if (error != 0) {
    fail(stream->id, error, "connect");
    stream_close(stream);
    return false;
  }
  stream->connecting = false;
  link_send_small(kConnected, stream->id, 0, 0);
  return true;
}

bool tunnel_pump(struct stream* stream) {
  if (stream->connecting && !connected(stream)) return false;
  stdin_pump(stream);
  bool more = outputs_pump(stream);
  if (outputs_open(stream) || stream->input.fd >= 0) return more;
  if (link_room() < kSmallFrameBytes) return false;
  link_send_small(kClosed, stream->id, 0, (uint32_t)stream->socket_error);
  stream_close(stream);
  return false;
}
