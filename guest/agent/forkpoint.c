// A process connects, writes one line and reads: the answer comes in a clone. Whoever waits is
// known here only by a socket and a name, in a fixed table that every clone inherits.
#include "forkpoint.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "console.h"
#include "events.h"
#include "link.h"
#include "tunnel.h"

enum { kMaxWaiting = 16, kNameMaxBytes = 64, kLineMaxBytes = 13 + kNameMaxBytes + 1 };
enum { kListener = 0, kFirstWaiting = 1 };

static const char kGreeting[] = "FORK-POINT 1 ";

struct waiting {
  int fd;  // 0, which is always somebody else's, when free
  bool ready;
  bool announced;
  uint32_t length;
  char line[kLineMaxBytes];
};

static struct waiting table[kMaxWaiting];
static int listener = -1;
static bool listener_ready;
static bool any_ready;

static bool listen_at(const char* path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return false;
  strcpy(address.sun_path, path);
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  // Users other than root may wait too.
  return listener >= 0 && bind(listener, (struct sockaddr*)&address, sizeof address) == 0 &&
         chmod(path, 0666) == 0 && listen(listener, kMaxWaiting) == 0 &&
         events_watch_fork_point(listener, kListener);
}

void forkpoint_init(const char* path) {
  if (!listen_at(path)) console_say(path, errno);
}

void forkpoint_ready(uint32_t number) {
  any_ready = true;
  if (number == kListener) {
    listener_ready = true;
  } else if (number - kFirstWaiting < kMaxWaiting) {
    table[number - kFirstWaiting].ready = true;
  }
}

static const char* name_of(const struct waiting* waiting) {
  return waiting->line + sizeof kGreeting - 1;
}

static uint32_t name_length(const struct waiting* waiting) {
  return waiting->length - (uint32_t)sizeof kGreeting;  // less the greeting, less the newline
}

static void announce(const struct waiting* waiting, uint16_t aux) {
  uint8_t payload[8 + kNameMaxBytes];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put(&writer, kTagForkPoint, name_of(waiting), name_length(waiting));
  struct frame frame = {.length = tlv_size(&writer), .type = kForkPoint, .aux = aux};
  link_send(&frame, payload);
}

static void drop(struct waiting* waiting) {
  if (waiting->announced) announce(waiting, kForkPointLeft);
  close(waiting->fd);
  waiting->fd = 0;
}

static void accept_one(void) {
  listener_ready = false;
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  uint32_t index = 0;
  while (index < kMaxWaiting && table[index].fd != 0) index++;
  if (index == kMaxWaiting || !events_watch_fork_point(fd, kFirstWaiting + index)) {
    close(fd);
    return;
  }
  table[index] = (struct waiting){.fd = fd, .ready = true};
}

static bool name_allowed(const char* name, uint32_t length) {
  static const char kAllowed[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (length == 0 || length > kNameMaxBytes) return false;
  for (uint32_t i = 0; i < length; i++) {
    if (name[i] == 0 || !strchr(kAllowed, name[i])) return false;
  }
  return true;
}

// The line must be all that a process sends before it gets its payload.
static bool line_good(const struct waiting* waiting) {
  return waiting->length >= sizeof kGreeting &&
         memcmp(waiting->line, kGreeting, sizeof kGreeting - 1) == 0 &&
         name_allowed(name_of(waiting), name_length(waiting));
}

static void read_line(struct waiting* waiting) {
  waiting->ready = false;
  size_t room = waiting->announced ? 1 : sizeof waiting->line - waiting->length;
  char extra;
  char* to = waiting->announced ? &extra : waiting->line + waiting->length;
  ssize_t count = recv(waiting->fd, to, room, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0 || waiting->announced) {
    drop(waiting);
    return;
  }
  waiting->length += (uint32_t)count;
  const char* end = memchr(waiting->line, '\n', waiting->length);
  if (!end && waiting->length < sizeof waiting->line) return;
  if (end != waiting->line + waiting->length - 1 || !line_good(waiting)) {
    drop(waiting);
    return;
  }
  waiting->announced = true;
  announce(waiting, 0);
}

bool forkpoint_pump(void) {
  if (!any_ready) return false;
  if (listener_ready) accept_one();
  for (uint32_t i = 0; i < kMaxWaiting; i++) {
    if (table[i].fd == 0 || !table[i].ready) continue;
    if (link_room() < kOutReserveBytes) return false;
    read_line(&table[i]);
  }
  any_ready = false;
  return false;
}

struct release {
  const uint8_t* payload;
  const uint8_t* name;
  uint32_t payload_length;
  uint32_t name_length;
};

static bool parse(uint8_t* payload, uint32_t length, struct release* release) {
  struct tlv_reader reader = {.next = payload, .end = payload + length};
  struct tlv tlv;
  enum tlv_result result;
  *release = (struct release){.payload = NULL};
  while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
    if (tlv.tag == kTagPayload) {
      release->payload = tlv.value;
      release->payload_length = tlv.length;
    } else if (tlv.tag == kTagForkPoint) {
      release->name = tlv.value;
      release->name_length = tlv.length;
    }
  }
  return result == kTlvEnd && release->payload && release->payload_length <= kPayloadMaxBytes;
}

static struct waiting* find(const struct release* release) {
  for (uint32_t i = 0; i < kMaxWaiting; i++) {
    struct waiting* waiting = &table[i];
    if (waiting->fd == 0 || !waiting->announced) continue;
    if (!release->name) return waiting;
    if (name_length(waiting) == release->name_length &&
        memcmp(name_of(waiting), release->name, release->name_length) == 0) {
      return waiting;
    }
  }
  return NULL;
}

// Fits a socket's usual buffer, which is empty until now: the payload goes out in one piece.
static bool deliver(int fd, const struct release* release) {
  uint32_t length = release->payload_length;
  struct iovec parts[] = {{.iov_base = &length, .iov_len = sizeof length},
                          {.iov_base = (void*)(uintptr_t)release->payload, .iov_len = length}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)(sizeof length + length);
}

void forkpoint_release(const struct frame* frame, uint8_t* payload) {
  struct release release;
  if (!parse(payload, frame->length, &release)) {
    link_send_error(frame->stream, EINVAL, "decode", "RELEASE is malformed or without payload");
    return;
  }
  struct waiting* waiting = find(&release);
  if (!waiting) {
    link_send_error(frame->stream, ENOENT, "fork-point", "no process waits there");
    return;
  }
  int fd = waiting->fd;
  waiting->fd = 0;
  if (deliver(fd, &release)) {
    tunnel_adopt(frame->stream, fd);
  } else {
    link_send_error(frame->stream, errno, "fork-point", "the process does not take its payload");
    close(fd);
  }
}
