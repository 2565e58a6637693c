// FILE_READ and FILE_WRITE against a scratch directory.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"

static uint32_t request(struct peer* peer, uint8_t* payload, const char* name, bool write,
                        uint64_t offset, uint64_t limit) {
  char path[128];
  struct tlv_writer writer;
  snprintf(path, sizeof path, "%s/%s", peer->root, name);
  tlv_begin(&writer, payload, 256);
  tlv_put_text(&writer, kTagPath, path);
  if (write) {
    tlv_put_u32(&writer, kTagMode, 0666);
  } else {
    tlv_put_u64(&writer, kTagOffset, offset);
    tlv_put_u64(&writer, kTagLimit, limit);
  }
  return tlv_size(&writer);
}

static void start_write(struct peer* peer, uint32_t id, uint16_t aux, const char* name) {
  uint8_t payload[256];
  uint32_t length = request(peer, payload, name, true, 0, 0);
  struct frame frame = {.length = length, .type = kFileWrite, .stream = id, .aux = aux};
  peer_send(peer, frame, payload);
}

static void put(struct peer* peer, uint16_t aux, const char* name, const char* text) {
  start_write(peer, 1, aux, name);
  struct frame data = {.length = (uint32_t)strlen(text), .type = kData, .stream = 1};
  peer_send(peer, data, text);
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
}

// Reads a file through the agent into `to`; returns the bytes, or minus the errno.
static long get(struct peer* peer, const char* name, uint64_t offset, uint64_t limit, uint8_t* to) {
  uint8_t payload[256];
  uint32_t length = request(peer, payload, name, false, offset, limit);
  struct frame frame = {.length = length, .type = kFileRead, .stream = 2};
  peer_send(peer, frame, payload);
  long total = 0;
  while (peer_read(peer, kPatienceMs) && peer->frame.stream == 2) {
    if (peer->frame.type == kError) return -(long)peer->frame.value;
    if (peer->frame.type == kFileDone) {
      uint64_t size;
      memcpy(&size, peer->payload + 8, sizeof size);
      CHECK(size == (uint64_t)total);
      return total;
    }
    CHECK(peer->frame.type == kData && peer->frame.aux == kAuxStdout);
    memcpy(to + total, peer->payload, peer->frame.length);
    total += peer->frame.length;
    struct frame window = {.type = kWindow, .stream = 2, .aux = kAuxStdout};
    window.value = peer->frame.length;
    peer_send(peer, window, NULL);
  }
  return -1;
}

static void a_file_written_is_the_file_read(void) {
  struct peer* peer = peer_start();
  uint8_t bytes[64];
  char path[128];
  struct stat status;
  put(peer, 0, "a", "hello file");
  CHECK(peer_expect(peer, kFileDone, 1));
  CHECK(get(peer, "a", 0, UINT64_MAX, bytes) == 10 && memcmp(bytes, "hello file", 10) == 0);
  CHECK(get(peer, "a", 6, 3, bytes) == 3 && memcmp(bytes, "fil", 3) == 0);
  CHECK(get(peer, "a", 100, 3, bytes) == 0);
  CHECK(get(peer, "a", 0, 0, bytes) == 0);
  snprintf(path, sizeof path, "%s/a", peer->root);
  CHECK(stat(path, &status) == 0 && (status.st_mode & 07777) == 0666);
  put(peer, kWriteAppend, "a", "!");
  CHECK(peer_expect(peer, kFileDone, 1));
  CHECK(get(peer, "a", 0, UINT64_MAX, bytes) == 11);
  put(peer, 0, "a", "x");
  CHECK(peer_expect(peer, kFileDone, 1));
  CHECK(get(peer, "a", 0, UINT64_MAX, bytes) == 1);
  peer_stop(peer);
}

static void parents_and_exclusive_are_honoured(void) {
  struct peer* peer = peer_start();
  put(peer, 0, "x/y/z", "1");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == ENOENT);
  put(peer, kWriteParents, "x/y/z", "1");
  CHECK(peer_expect(peer, kFileDone, 1));
  put(peer, kWriteExclusive, "x/y/z", "2");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EEXIST);
  uint8_t bytes[8];
  CHECK(get(peer, "x/y/z", 0, UINT64_MAX, bytes) == 1 && bytes[0] == '1');
  CHECK(get(peer, "x", 0, UINT64_MAX, bytes) == -EISDIR);
  CHECK(get(peer, "missing", 0, UINT64_MAX, bytes) == -ENOENT);
  peer_stop(peer);
}

static void a_pipe_is_refused_instead_of_waited_for(void) {
  struct peer* peer = peer_start();
  char path[128];
  uint8_t bytes[8];
  snprintf(path, sizeof path, "%s/fifo", peer->root);
  CHECK(mkfifo(path, 0600) == 0);
  CHECK(get(peer, "fifo", 0, UINT64_MAX, bytes) == -EINVAL);
  put(peer, 0, "fifo", "1");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == ENXIO);
  peer_stop(peer);
}

static void big_files_pass_both_ways(void) {
  enum { kBytes = 16 << 20 };
  struct peer* peer = peer_start();
  uint8_t* sent = malloc(kBytes);
  uint8_t* back = malloc(kBytes);
  srand(3);
  for (int i = 0; i < kBytes; i++) sent[i] = (uint8_t)rand();
  start_write(peer, 1, 0, "big");
  uint32_t credit = kWindowBytes;
  for (size_t at = 0; at < kBytes; at += kDataMaxBytes) {
    while (credit < kDataMaxBytes && peer_expect(peer, kWindow, 1)) credit += peer->frame.value;
    struct frame data = {.length = kDataMaxBytes, .type = kData, .stream = 1};
    peer_send(peer, data, sent + at);
    credit -= kDataMaxBytes;
  }
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  while (peer_read(peer, kPatienceMs) && peer->frame.type == kWindow) continue;
  CHECK(peer->frame.type == kFileDone);
  CHECK(get(peer, "big", 0, UINT64_MAX, back) == kBytes && memcmp(sent, back, kBytes) == 0);
  free(sent);
  free(back);
  peer_stop(peer);
}

static void giving_up_ends_a_transfer_with_eintr(void) {
  struct peer* peer = peer_start();
  start_write(peer, 1, 0, "half");
  peer_send(peer, (struct frame){.type = kSignal, .stream = 1, .value = SIGKILL}, NULL);
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINTR);
  put(peer, 0, "half", "whole");
  CHECK(peer_expect(peer, kFileDone, 1));
  peer_stop(peer);
}

static void hostile_requests_are_refused(void) {
  struct peer* peer = peer_start();
  static const struct tlv kBad[] = {
      {.tag = kTagPath, .length = 8, .value = (uint8_t*)"relative"},
      {.tag = kTagPath, .length = 4, .value = (uint8_t*)"/a\0b"},
      {.tag = kTagPath, .length = 0, .value = (uint8_t*)""},
      {.tag = kTagMode, .length = 4, .value = (uint8_t*)"\xff\xff\xff\xff"},
      {.tag = kTagOffset, .length = 8, .value = (uint8_t*)"\xff\xff\xff\xff\xff\xff\xff\xff"},
      {.tag = kTagLimit, .length = 3, .value = (uint8_t*)"abc"},
  };
  for (size_t i = 0; i < sizeof kBad / sizeof kBad[0]; i++) {
    uint8_t payload[128];
    struct tlv_writer writer;
    tlv_begin(&writer, payload, sizeof payload);
    if (kBad[i].tag != kTagPath) tlv_put_text(&writer, kTagPath, "/dev/null");
    tlv_put(&writer, kBad[i].tag, kBad[i].value, kBad[i].length);
    struct frame frame = {.length = tlv_size(&writer), .type = kFileRead, .stream = 1};
    peer_send(peer, frame, payload);
    CHECK(peer_expect(peer, kError, 1) && peer->frame.value == EINVAL);
  }
  peer_stop(peer);
}

void file_tests(void) {
  TEST(a_file_written_is_the_file_read);
  TEST(parents_and_exclusive_are_honoured);
  TEST(a_pipe_is_refused_instead_of_waited_for);
  TEST(big_files_pass_both_ways);
  TEST(giving_up_ends_a_transfer_with_eintr);
  TEST(hostile_requests_are_refused);
}
