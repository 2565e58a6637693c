// Nothing here blocks and nothing grows: an output is read only into free room of the send queue
// and under credit; input that a program does not take yet is bounded by the credit it came under.
#include "flow.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "console.h"
#include "events.h"
#include "link.h"
#include "pty.h"

// Credit goes back in pieces of this size: a small write costs no frame of its own, and a host that
// used up its window always gets one.
enum { kWindowStepBytes = 64 << 10 };

static uint8_t discard_buffer[kDataMaxBytes];

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

void window_return(struct stream* stream) {
  struct input* input = &stream->input;
  if (input->owed < kWindowStepBytes || input->ending || stream->detached) return;
  if (link_room() < kSmallFrameBytes) return;
  link_send_small(kWindow, stream->id, kAuxStdin, input->owed);
  input->credit += input->owed;
  input->owed = 0;
}

// Nobody reads this input any more: what is there, and what comes, is dropped.
static void close_input(struct stream* stream) {
  struct input* input = &stream->input;
  if (input->fd >= 0 && input->fd != stream->outputs[0].fd) {
    // The socket lives on for the other direction: its peer must be told.
    if (stream->kind == kTunnel) shutdown(input->fd, SHUT_WR);
    close(input->fd);
  }
  input->fd = -1;
  input->owed += input->buffered;
  input->buffered = 0;
}

// Returns how much was taken; everything when the program closed its end.
static uint32_t write_input(struct stream* stream, const uint8_t* bytes, uint32_t length) {
  struct input* input = &stream->input;
  uint32_t done = 0;
  while (done < length && input->writable && input->fd >= 0) {
    ssize_t count = write(input->fd, bytes + done, length - done);
    if (count > 0) {
      done += (uint32_t)count;
      input->mid_line = bytes[done - 1] != '\n';
    } else if (count < 0 && errno == EAGAIN) {
      input->writable = false;
    } else if (count == 0 || errno != EINTR) {
      stream->socket_error = errno;
      close_input(stream);
    }
  }
  return input->fd < 0 ? length : done;
}

static void keep(struct stream* stream, const uint8_t* bytes, uint32_t length) {
  struct input* input = &stream->input;
  if (!input->buffer) {
    void* ring =
        mmap(NULL, kWindowBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) fatal("no memory for a command's input", errno);
    input->buffer = ring;
  }
  uint32_t tail = (input->head + input->buffered) % kWindowBytes;
  uint32_t first = min_u32(length, kWindowBytes - tail);
  memcpy(input->buffer + tail, bytes, first);
  memcpy(input->buffer, bytes + first, length - first);
  input->buffered += length;
}

static void watch_input(struct stream* stream) {
  struct input* input = &stream->input;
  if (stream->pty || input->watched || input->fd < 0) return;
  input->watched = true;
  if (!events_watch(input->fd, stream, kWatchStdin)) close_input(stream);
}

static void push(struct stream* stream, const uint8_t* bytes, uint32_t length) {
  uint32_t done = stream->input.buffered > 0 ? 0 : write_input(stream, bytes, length);
  stream->input.owed += done;
  if (done == length) return;
  keep(stream, bytes + done, length - done);
  watch_input(stream);
}

bool stdin_take(struct stream* stream, const uint8_t* bytes, uint32_t length) {
  struct input* input = &stream->input;
  if (length > input->credit) return false;
  input->credit -= length;
  if (input->fd < 0) {
    input->owed += length;
  } else {
    push(stream, bytes, length);
  }
  window_return(stream);
  return true;
}

// A pipe ends by being closed; a terminal stays open and is told its end-of-file character.
static void finish_input(struct stream* stream) {
  if (!stream->pty) {
    close_input(stream);
    return;
  }
  uint8_t bytes[2];
  uint32_t count = pty_end_of_input(stream->input.fd, stream->input.mid_line, bytes);
  write_input(stream, bytes, count);
}

void stdin_end(struct stream* stream) {
  struct input* input = &stream->input;
  if (input->ending) return;
  input->ending = true;
  input->credit = 0;
  if (input->fd >= 0 && input->buffered == 0) finish_input(stream);
}

void stdin_pump(struct stream* stream) {
  struct input* input = &stream->input;
  bool had = input->buffered > 0;
  while (input->buffered > 0 && input->writable) {
    uint32_t piece = min_u32(input->buffered, kWindowBytes - input->head);
    uint32_t done = write_input(stream, input->buffer + input->head, piece);
    if (input->fd < 0) break;
    input->head = (input->head + done) % kWindowBytes;
    input->buffered -= done;
    input->owed += done;
  }
  if (had && input->buffered == 0 && input->ending && input->fd >= 0) finish_input(stream);
  window_return(stream);
}

static void end_output(struct stream* stream, int index) {
  struct output* output = &stream->outputs[index];
  if (stream->input.fd == output->fd) close_input(stream);
  close(output->fd);
  output->fd = -1;
  output->ready = false;
  if (!stream->detached && !output->final) {
    link_send_lazy(kEof, stream->id, (uint16_t)(kAuxStdout + index), 0);
  }
}

// How much may be read now: nothing without credit or room.
static uint32_t readable_now(const struct stream* stream, const struct output* output) {
  uint32_t most = kDataMaxBytes;
  if (!stream->detached) {
    size_t room = link_room();
    if (room < kOutReserveBytes + kFrameHeaderBytes) return 0;
    most = min_u32(min_u32(most, output->credit), (uint32_t)(room - kOutReserveBytes));
  }
  return output->final ? min_u32(most, output->final_bytes) : most;
}

static void pass_on(struct stream* stream, int index, uint32_t length) {
  struct output* output = &stream->outputs[index];
  if (output->final) output->final_bytes -= length;
  if (stream->detached) return;
  output->credit -= length;
  link_commit_data(stream->id, (uint16_t)(kAuxStdout + index), length);
}

// A socket whose reading failed is no use for writing either.
static void break_socket(struct stream* stream, int error) {
  stream->socket_error = error;
  close_input(stream);
}

static void pump_output(struct stream* stream, int index) {
  struct output* output = &stream->outputs[index];
  if (output->final && output->final_bytes == 0) {
    end_output(stream, index);
    return;
  }
  uint32_t asked = readable_now(stream, output);
  if (asked == 0) return;
  uint8_t* place = stream->detached ? discard_buffer : link_reserve_data(asked);
  ssize_t count = read(output->fd, place, asked);
  if (count > 0) {
    pass_on(stream, index, (uint32_t)count);
    // A pipe hands over all it has; a terminal gives a line or a piece at a time. A socket, and the
    // pipes of a process that has ended, may have told of their end together with the last bytes.
    output->ready = stream->pty || stream->kind == kTunnel || stream->exited || output->final ||
                    (uint32_t)count == asked;
  } else if (count < 0 && errno == EAGAIN) {
    output->ready = output->final;
    output->final_bytes = 0;
  } else if (count == 0 || errno != EINTR) {
    // A terminal whose last user is gone says EIO.
    if (count < 0 && stream->kind == kTunnel) break_socket(stream, errno);
    end_output(stream, index);
  }
}

bool outputs_pump(struct stream* stream) {
  bool more = false;
  for (int index = 0; index < 2; index++) {
    struct output* output = &stream->outputs[index];
    if (output->fd >= 0 && output->ready) pump_output(stream, index);
    bool over = output->final && output->final_bytes == 0;
    more |= output->fd >= 0 && output->ready && (over || readable_now(stream, output) > 0);
  }
  return more;
}

// Nobody writes any more: what comes next is the true end, however late it is noticed.
static bool writers_gone(int fd) {
  struct pollfd look = {.fd = fd, .events = POLLIN};
  return poll(&look, 1, 0) == 1 && (look.revents & POLLHUP) != 0;
}

void outputs_finish(struct stream* stream) {
  for (int index = 0; index < 2; index++) {
    struct output* output = &stream->outputs[index];
    if (output->fd < 0) continue;
    output->ready = true;
    if (writers_gone(output->fd)) continue;
    int waiting = 0;
    if (ioctl(output->fd, FIONREAD, &waiting) < 0 || waiting < 0) waiting = 0;
    output->final = true;
    output->final_bytes = (uint32_t)waiting;
  }
}

bool outputs_open(const struct stream* stream) {
  return stream->outputs[0].fd >= 0 || stream->outputs[1].fd >= 0;
}
