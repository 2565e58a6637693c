// The control connection's buffers and system calls. Both buffers are static and used from their
// start whenever they are empty, so that a fork of the VM dirties the same few pages every time.
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "console.h"

enum {
  kInBytes = kFrameHeaderBytes + kFrameMaxPayloadBytes,
  kReadBytes = 128 << 10,
  kDialAttempts = 400,
  kDialPauseMs = 25,
  kHostAwayPauseMs = 5,
};

static struct {
  int fd;
  bool is_socket;
  bool readable;
  bool writable;
  uint32_t in_start;
  uint32_t in_end;
  uint32_t out_start;
  uint32_t out_end;
  uint32_t lazy;  // how many of the queued bytes are in no hurry
} link_state;

static uint8_t in_buffer[kInBytes] __attribute__((aligned(4096)));
static uint8_t out_buffer[kOutBytes] __attribute__((aligned(4096)));

static void pause_ms(long ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

void link_adopt(int fd) {
  link_state.fd = fd;
  link_state.is_socket = true;
  link_state.writable = true;
}

// The host may still be setting its end up, or the driver its device; anything else is final.
static bool worth_retrying(int error) {
  return error == ENODEV || error == ECONNRESET || error == ECONNREFUSED || error == ETIMEDOUT ||
         error == EINTR || error == ENETUNREACH || error == EHOSTUNREACH;
}

static void dial(void) {
  struct sockaddr_vm address = {
      .svm_family = AF_VSOCK, .svm_port = kControlPort, .svm_cid = VMADDR_CID_HOST};
  for (int attempt = 0;; attempt++) {
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fatal("no vsock in this kernel", errno);
    if (connect(fd, (struct sockaddr*)&address, sizeof address) == 0) {
      link_adopt(fd);
      return;
    }
    int error = errno;
    close(fd);
    if (!worth_retrying(error) || attempt == kDialAttempts) {
      fatal("cannot reach the host on vsock port 1024", error);
    }
    pause_ms(kDialPauseMs);
  }
}

// A virtio-serial port says POLLHUP until somebody opened its host end (drivers/char/
// virtio_console.c, port_fops_poll); there is nothing to sleep on, so look again now and then.
static void wait_for_host(int fd) {
  struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
  while (poll(&poll_fd, 1, -1) < 0 || (poll_fd.revents & POLLHUP)) pause_ms(kHostAwayPauseMs);
}

static void open_device(const char* path) {
  int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fatal("cannot open the device in VMFORK_CONTROL", errno);
  struct termios terminal;
  if (tcgetattr(fd, &terminal) == 0) {
    cfmakeraw(&terminal);
    terminal.c_cflag |= CLOCAL | CREAD;
    if (tcsetattr(fd, TCSANOW, &terminal) < 0) fatal("cannot set the control tty raw", errno);
  } else {
    wait_for_host(fd);
  }
  link_state.fd = fd;
  link_state.writable = true;
}

void link_open(const char* device) {
  if (device) {
    open_device(device);
  } else {
    dial();
  }
}

int link_fd(void) { return link_state.fd; }
bool link_readable(void) { return link_state.readable; }
void link_set_readable(void) { link_state.readable = true; }
bool link_writable(void) { return link_state.writable; }
void link_set_writable(void) { link_state.writable = true; }

static void wait_ready(short events) {
  struct pollfd poll_fd = {.fd = link_state.fd, .events = events};
  while (poll(&poll_fd, 1, -1) < 0) {
    if (errno != EINTR) fatal("cannot wait for the control connection", errno);
  }
}

static ssize_t read_some(uint8_t* to, size_t length, bool wait) {
  if (link_state.is_socket) return recv(link_state.fd, to, length, wait ? 0 : MSG_DONTWAIT);
  if (wait) wait_ready(POLLIN);
  return read(link_state.fd, to, length);
}

// What is left of a cut frame moves to the front, so that a whole one always fits behind it.
static void compact_input(void) {
  uint32_t left = link_state.in_end - link_state.in_start;
  if (link_state.in_start > 0 && left > 0) {
    memmove(in_buffer, in_buffer + link_state.in_start, left);
  }
  link_state.in_start = 0;
  link_state.in_end = left;
}

bool link_fill(bool wait) {
  compact_input();
  size_t asked = kInBytes - link_state.in_end;
  if (asked > kReadBytes) asked = kReadBytes;
  if (asked == 0) return false;
  ssize_t count = read_some(in_buffer + link_state.in_end, asked, wait);
  if (count > 0) {
    link_state.in_end += (uint32_t)count;
    // A socket hands over all it has, a character device a piece at a time.
    link_state.readable = !link_state.is_socket || (size_t)count == asked;
    return true;
  }
  link_state.readable = false;
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (link_state.is_socket) fatal("the host closed the control connection", count < 0 ? errno : 0);
  wait_for_host(link_state.fd);
  link_state.readable = true;
  return false;
}

enum link_result link_next(struct frame* frame, uint8_t** payload, const char** problem) {
  uint32_t left = link_state.in_end - link_state.in_start;
  if (left < kFrameHeaderBytes) return kLinkNothing;
  uint8_t* header = in_buffer + link_state.in_start;
  struct frame head = frame_decode(header);
  *problem = frame_check(&head);
  if (*problem) return kLinkBroken;
  if (left - kFrameHeaderBytes < head.length) return kLinkNothing;
  link_state.in_start += kFrameHeaderBytes + head.length;
  *frame = head;
  *payload = header + kFrameHeaderBytes;
  return kLinkFrame;
}

size_t link_room(void) { return kOutBytes - (link_state.out_end - link_state.out_start); }

bool link_idle(void) { return link_state.out_end == link_state.out_start; }

static uint8_t* make_room(size_t length) {
  if (length > kOutBytes - link_state.out_end) {
    uint32_t queued = link_state.out_end - link_state.out_start;
    memmove(out_buffer, out_buffer + link_state.out_start, queued);
    link_state.out_start = 0;
    link_state.out_end = queued;
    if (length > kOutBytes - queued) fatal("output queue overrun", 0);
  }
  return out_buffer + link_state.out_end;
}

void link_send(const struct frame* frame, const void* payload) {
  uint8_t* place = make_room(kFrameHeaderBytes + frame->length);
  frame_encode(frame, place);
  if (frame->length > 0) memcpy(place + kFrameHeaderBytes, payload, frame->length);
  link_state.out_end += kFrameHeaderBytes + frame->length;
}

void link_send_small(uint8_t type, uint32_t stream, uint16_t aux, uint32_t value) {
  struct frame frame = {.type = type, .stream = stream, .aux = aux, .value = value};
  link_send(&frame, NULL);
}

void link_send_lazy(uint8_t type, uint32_t stream, uint16_t aux, uint32_t value) {
  link_send_small(type, stream, aux, value);
  link_state.lazy += kFrameHeaderBytes;
}

bool link_lazy(void) {
  return !link_idle() && link_state.out_end - link_state.out_start == link_state.lazy;
}

void link_send_error(uint32_t stream, int error, const char* stage, const char* text) {
  uint8_t payload[256];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  if (stage) tlv_put_text(&writer, kTagStage, stage);
  tlv_put_text(&writer, kTagText, text);
  struct frame frame = {
      .length = tlv_size(&writer), .type = kError, .stream = stream, .value = (uint32_t)error};
  link_send(&frame, payload);
}

uint8_t* link_reserve_data(size_t length) {
  return make_room(kFrameHeaderBytes + length) + kFrameHeaderBytes;
}

void link_commit_data(uint32_t stream, uint16_t aux, uint32_t length) {
  struct frame frame = {.length = length, .type = kData, .stream = stream, .aux = aux};
  frame_encode(&frame, out_buffer + link_state.out_end);
  link_state.out_end += kFrameHeaderBytes + length;
}

static ssize_t write_some(const uint8_t* from, size_t length) {
  if (link_state.is_socket) return send(link_state.fd, from, length, MSG_DONTWAIT | MSG_NOSIGNAL);
  return write(link_state.fd, from, length);
}

void link_flush(void) {
  link_state.lazy = 0;
  while (!link_idle() && link_state.writable) {
    uint32_t queued = link_state.out_end - link_state.out_start;
    ssize_t count = write_some(out_buffer + link_state.out_start, queued);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) fatal("cannot send to the host", errno);
      count = 0;
      link_state.writable = false;
    }
    link_state.out_start += (uint32_t)count;
  }
  if (link_idle()) link_state.out_start = link_state.out_end = 0;
}

void link_drain(void) {
  link_flush();
  while (!link_idle()) {
    wait_ready(POLLOUT);
    link_state.writable = true;
    link_flush();
  }
}
