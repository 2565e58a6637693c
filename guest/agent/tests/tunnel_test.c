// Tunnels to TCP ports and Unix sockets of this machine: both ways, their ends, and their failures.
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"

enum { kBigBytes = 8 << 20 };

static int listen_tcp(uint32_t* port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  CHECK(bind(fd, (struct sockaddr*)&address, length) == 0 && listen(fd, 8) == 0);
  CHECK(getsockname(fd, (struct sockaddr*)&address, &length) == 0);
  *port = ntohs(address.sin_port);
  return fd;
}

static void dial_port(struct peer* peer, uint32_t stream, uint32_t port) {
  uint8_t payload[64];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_u32(&writer, kTagPort, port);
  struct frame frame = {.length = tlv_size(&writer), .type = kDial, .stream = stream};
  peer_send(peer, frame, payload);
}

static void dial_path(struct peer* peer, uint32_t stream, const char* path) {
  uint8_t payload[PATH_MAX + 16];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagPath, path);
  struct frame frame = {.length = tlv_size(&writer), .type = kDial, .stream = stream};
  peer_send(peer, frame, payload);
}

// Dials a listener of this process; returns the far end.
static int dial_and_accept(struct peer* peer, uint32_t stream) {
  uint32_t port;
  int listener = listen_tcp(&port);
  dial_port(peer, stream, port);
  int far = accept(listener, NULL, NULL);
  close(listener);
  CHECK(far >= 0 && peer_expect(peer, kConnected, stream));
  return far;
}

static void send_text(struct peer* peer, uint32_t stream, const char* text) {
  struct frame data = {.length = (uint32_t)strlen(text), .type = kData, .stream = stream};
  peer_send(peer, data, text);
}

static bool expect_data(struct peer* peer, uint32_t stream, const char* text) {
  return peer_expect(peer, kData, stream) && peer->frame.length == strlen(text) &&
         memcmp(peer->payload, text, strlen(text)) == 0;
}

static bool far_reads(int far, const char* text) {
  char bytes[64];
  ssize_t count = recv(far, bytes, sizeof bytes, 0);
  return count == (ssize_t)strlen(text) && memcmp(bytes, text, (size_t)count) == 0;
}

static void each_way_ends_by_itself(void) {
  struct peer* peer = peer_start();
  int far = dial_and_accept(peer, 1);
  send_text(peer, 1, "question");
  CHECK(far_reads(far, "question"));
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  CHECK(far_reads(far, ""));
  CHECK(send(far, "answer", 6, 0) == 6);
  CHECK(expect_data(peer, 1, "answer"));
  close(far);
  CHECK(peer_expect(peer, kEof, 1) && peer->frame.aux == kAuxStdout);
  CHECK(peer_expect(peer, kClosed, 1) && peer->frame.value == 0);
  peer_stop(peer);
}

static void the_far_end_may_end_first(void) {
  struct peer* peer = peer_start();
  int far = dial_and_accept(peer, 1);
  CHECK(send(far, "last words", 10, 0) == 10 && shutdown(far, SHUT_WR) == 0);
  CHECK(expect_data(peer, 1, "last words"));
  CHECK(peer_expect(peer, kEof, 1));
  send_text(peer, 1, "still heard");
  CHECK(far_reads(far, "still heard"));
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  CHECK(far_reads(far, ""));
  CHECK(peer_expect(peer, kClosed, 1) && peer->frame.value == 0);
  close(far);
  peer_stop(peer);
}

static void a_port_nobody_listens_on_is_refused(void) {
  struct peer* peer = peer_start();
  uint32_t port;
  close(listen_tcp(&port));
  dial_port(peer, 1, port);
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == ECONNREFUSED);
  // The number is free again.
  close(dial_and_accept(peer, 1));
  peer_stop(peer);
}

static void reset_tells_the_other_side(void) {
  struct peer* peer = peer_start();
  char byte;
  int far = dial_and_accept(peer, 1);
  peer_send(peer, (struct frame){.type = kSignal, .stream = 1, .value = SIGKILL}, NULL);
  CHECK(peer_expect(peer, kClosed, 1) && peer->frame.value == ECANCELED);
  CHECK(recv(far, &byte, 1, 0) == -1 && errno == ECONNRESET);
  close(far);
  far = dial_and_accept(peer, 2);
  struct linger at_once = {.l_onoff = 1};
  setsockopt(far, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(far);
  while (peer_read(peer, kPatienceMs) && peer->frame.type == kEof) continue;
  CHECK(peer->frame.type == kClosed && peer->frame.value == ECONNRESET);
  peer_stop(peer);
}

static int listen_unix(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  snprintf(address.sun_path, sizeof address.sun_path, "%.107s", path);
  CHECK(bind(fd, (struct sockaddr*)&address, sizeof address) == 0 && listen(fd, 8) == 0);
  return fd;
}

static void a_unix_socket_is_dialled_by_any_path(void) {
  struct peer* peer = peer_start();
  char path[128], link_path[128], long_path[512];
  snprintf(path, sizeof path, "%s/server.sock", peer->root);
  snprintf(link_path, sizeof link_path, "%s/link", peer->root);
  size_t at = (size_t)snprintf(long_path, sizeof long_path, "%s", peer->root);
  while (at < 400) at += (size_t)snprintf(long_path + at, sizeof long_path - at, "/.");
  snprintf(long_path + at, sizeof long_path - at, "/server.sock");
  int listener = listen_unix(path);
  CHECK(symlink("server.sock", link_path) == 0);
  const char* const paths[] = {path, link_path, long_path};
  for (uint32_t i = 0; i < 3; i++) {
    dial_path(peer, i + 1, paths[i]);
    CHECK(peer_expect(peer, kConnected, i + 1));
    close(accept(listener, NULL, NULL));
    CHECK(peer_expect(peer, kEof, i + 1));
  }
  close(listener);
  dial_path(peer, 9, path);
  CHECK(peer_expect(peer, kError, 9) && peer->frame.value == ECONNREFUSED);
  dial_path(peer, 9, "/no/such.sock");
  CHECK(peer_expect(peer, kError, 9) && peer->frame.value == ENOENT);
  dial_path(peer, 9, "/etc/passwd");
  CHECK(peer_expect(peer, kError, 9) && peer->frame.value == ECONNREFUSED);
  peer_stop(peer);
}

static void what_names_no_target_is_refused(void) {
  struct peer* peer = peer_start();
  dial_path(peer, 1, "relative");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  dial_port(peer, 1, 0);
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  dial_port(peer, 1, 65536);
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  peer_send(peer, (struct frame){.type = kDial, .stream = 1}, NULL);
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  peer_send(peer, (struct frame){.length = 3, .type = kDial, .stream = 1}, "???");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  peer_stop(peer);
}

// Answers every byte with itself until there are no more.
_Noreturn static void echo(int listener) {
  static uint8_t bytes[64 << 10];
  int fd = accept(listener, NULL, NULL);
  ssize_t count;
  while ((count = recv(fd, bytes, sizeof bytes, 0)) > 0) {
    for (ssize_t sent = 0; sent < count;) sent += send(fd, bytes + sent, (size_t)(count - sent), 0);
  }
  _exit(0);
}

// Less than both directions of a socket pair hold: the peer does not read while it sends, and an
// agent that cannot send does not read.
enum { kUnreadBytes = 128 << 10 };

struct traffic {
  uint32_t credit;
  size_t received;
  uint64_t hash;
};

static bool take(struct peer* peer, struct traffic* traffic) {
  if (!peer_read(peer, kPatienceMs)) return false;
  const struct frame* frame = &peer->frame;
  if (frame->type == kWindow) traffic->credit += frame->value;
  if (frame->type != kData) return frame->type == kWindow;
  traffic->hash = hash_bytes(traffic->hash, peer->payload, frame->length);
  traffic->received += frame->length;
  struct frame window = {.type = kWindow, .stream = 1, .aux = kAuxStdout, .value = frame->length};
  peer_send(peer, window, NULL);
  return true;
}

static void a_lot_comes_back_unharmed(void) {
  static uint8_t piece[kDataMaxBytes];
  struct peer* peer = peer_start();
  uint32_t port;
  int listener = listen_tcp(&port);
  pid_t server = fork();
  if (server == 0) echo(listener);
  close(listener);
  dial_port(peer, 1, port);
  CHECK(peer_expect(peer, kConnected, 1));
  struct traffic traffic = {.credit = kWindowBytes, .hash = HASH_START};
  uint64_t hash = HASH_START;
  for (size_t sent = 0; sent < kBigBytes; sent += sizeof piece) {
    while (
        (traffic.credit < sizeof piece || sent - traffic.received > kUnreadBytes - sizeof piece) &&
        take(peer, &traffic)) {
      continue;
    }
    for (size_t i = 0; i < sizeof piece; i++) piece[i] = (uint8_t)rand();
    hash = hash_bytes(hash, piece, sizeof piece);
    peer_send(peer, (struct frame){.length = sizeof piece, .type = kData, .stream = 1}, piece);
    traffic.credit -= (uint32_t)sizeof piece;
  }
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  while (take(peer, &traffic)) continue;
  CHECK(peer->frame.type == kEof && traffic.received == kBigBytes && traffic.hash == hash);
  CHECK(peer_expect(peer, kClosed, 1) && peer->frame.value == 0);
  waitpid(server, NULL, 0);
  peer_stop(peer);
}

void tunnel_tests(void) {
  TEST(each_way_ends_by_itself);
  TEST(the_far_end_may_end_first);
  TEST(a_port_nobody_listens_on_is_refused);
  TEST(reset_tells_the_other_side);
  TEST(a_unix_socket_is_dialled_by_any_path);
  TEST(what_names_no_target_is_refused);
  TEST(a_lot_comes_back_unharmed);
}
