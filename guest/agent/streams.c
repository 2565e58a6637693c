// Slots are taken from the lowest upwards, so that few commands touch few pages.
#include "streams.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct stream table[kMaxStreams];
static uint32_t count;
static uint32_t end;

struct stream* stream_find(uint32_t id) {
  for (uint32_t slot = 0; slot < end; slot++) {
    struct stream* stream = &table[slot];
    if (stream->kind != kFree && stream->id == id && !stream->detached) return stream;
  }
  return NULL;
}

struct stream* stream_find_pid(pid_t pid) {
  for (uint32_t slot = 0; slot < end; slot++) {
    if (table[slot].kind == kCommand && table[slot].pid == pid) return &table[slot];
  }
  return NULL;
}

struct stream* stream_open(uint32_t id, enum stream_kind kind) {
  uint32_t slot = 0;
  while (slot < kMaxStreams && table[slot].kind != kFree) slot++;
  if (slot == kMaxStreams) return NULL;
  if (slot == end) end++;
  count++;
  struct stream* stream = &table[slot];
  *stream = (struct stream){.kind = (uint8_t)kind, .id = id, .file_fd = -1};
  stream->input = (struct input){.fd = -1, .credit = kWindowBytes, .writable = true};
  for (int i = 0; i < 2; i++) {
    stream->outputs[i] = (struct output){.fd = -1, .credit = kWindowBytes};
  }
  return stream;
}

static void close_if_open(int fd) {
  if (fd >= 0) close(fd);
}

void stream_close(struct stream* stream) {
  close_if_open(stream->file_fd);
  // A terminal is one descriptor in two places.
  if (stream->input.fd != stream->outputs[0].fd) close_if_open(stream->input.fd);
  close_if_open(stream->outputs[0].fd);
  close_if_open(stream->outputs[1].fd);
  if (stream->input.buffer) munmap(stream->input.buffer, kWindowBytes);
  stream->kind = kFree;
  count--;
  while (end > 0 && table[end - 1].kind == kFree) end--;
}

void streams_detach(void) {
  for (uint32_t slot = end; slot-- > 0;) {
    struct stream* stream = &table[slot];
    if (stream->kind == kFree || stream->detached) continue;
    if (stream->kind == kCommand) {
      stream->detached = true;
    } else {
      stream_close(stream);
    }
  }
}

uint32_t streams_count(void) { return count; }
struct stream* stream_at(uint32_t slot) { return &table[slot]; }
uint32_t stream_slot(const struct stream* stream) { return (uint32_t)(stream - table); }
uint32_t streams_end(void) { return end; }
