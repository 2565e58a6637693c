// Golden bytes both ways, the rules of headers, and TLVs under hostile input.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "frames.h"

enum { kMaxFrameBytes = 1024, kMaxLines = 64, kEveryType = 34 };

static struct golden {
  char name[64];
  uint8_t bytes[kMaxFrameBytes];
  size_t length;
} golden[kMaxLines];
static int golden_count;

static bool parse_line(const char* line, struct golden* entry) {
  int at = 0;
  if (sscanf(line, "%63s %n", entry->name, &at) != 1) return false;
  unsigned byte;
  for (entry->length = 0; sscanf(line + at, "%2x", &byte) == 1; at += 2) {
    if (entry->length == kMaxFrameBytes) return false;
    entry->bytes[entry->length++] = (uint8_t)byte;
  }
  return entry->length >= kFrameHeaderBytes;
}

static void load(const char* path) {
  FILE* file = fopen(path, "r");
  if (!file) {
    perror(path);
    exit(EXIT_FAILURE);
  }
  char line[4 * kMaxFrameBytes];
  while (fgets(line, sizeof line, file) && golden_count < kMaxLines) {
    if (line[0] != '#' && line[0] != '\n') CHECK(parse_line(line, &golden[golden_count++]));
  }
  fclose(file);
}

static const struct golden* find(const char* name) {
  for (int i = 0; i < golden_count; i++) {
    if (strcmp(golden[i].name, name) == 0) return &golden[i];
  }
  printf("  no golden frame %s\n", name);
  abort();
}

static void golden_frames_encode_to_the_same_bytes(void) {
  bool seen[256] = {false};
  int types = 0;
  for (int i = 0; i < golden_count; i++) {
    struct frame frame = frame_decode(golden[i].bytes);
    uint8_t header[kFrameHeaderBytes];
    CHECK(golden[i].length == kFrameHeaderBytes + frame.length);
    frame_encode(&frame, header);
    CHECK(memcmp(header, golden[i].bytes, sizeof header) == 0);
    types += !seen[frame.type];
    seen[frame.type] = true;
  }
  CHECK(types == kEveryType + 1);
}

static bool is_raw(uint8_t type) {
  return type == kPing || type == kPong || type == kData || type == kLog || type == 200;
}

static void golden_tlvs_encode_to_the_same_bytes(void) {
  for (int i = 0; i < golden_count; i++) {
    struct frame frame = frame_decode(golden[i].bytes);
    if (is_raw(frame.type)) continue;
    uint8_t copy[kMaxFrameBytes];
    struct tlv_writer writer;
    tlv_begin(&writer, copy, sizeof copy);
    uint8_t* payload = golden[i].bytes + kFrameHeaderBytes;
    struct tlv_reader reader = {.next = payload, .end = payload + frame.length};
    struct tlv tlv;
    enum tlv_result result;
    while ((result = tlv_next(&reader, &tlv)) == kTlvGot) {
      tlv_put(&writer, tlv.tag, tlv.value, tlv.length);
    }
    CHECK(result == kTlvEnd && !writer.overflow && tlv_size(&writer) == frame.length);
    CHECK(memcmp(copy, payload, frame.length) == 0);
  }
}

static void golden_fields_mean_what_the_comment_says(void) {
  struct frame frame = frame_decode(find("ping")->bytes);
  CHECK(frame.type == kPing && frame.value == 0x01020304 && frame.length == 4);
  frame = frame_decode(find("resize")->bytes);
  CHECK(frame.stream == 2 && frame.value == (24u << 16 | 80));
  frame = frame_decode(find("exit_signal")->bytes);
  CHECK(frame.stream == 0xfffffffe && frame.aux == 9 && frame.value == 0);
  frame = frame_decode(find("signal_group")->bytes);
  CHECK(frame.aux == kSignalGroup && frame.value == 9);
  uint8_t* done = (uint8_t*)find("file_done")->bytes + kFrameHeaderBytes;
  struct tlv_reader reader = {.next = done, .end = done + 16};
  struct tlv tlv;
  uint64_t size = 0;
  CHECK(tlv_next(&reader, &tlv) == kTlvGot && tlv.tag == kTagSize && tlv_u64(&tlv, &size));
  CHECK(size == 1ull << 32);
}

static void host_frames_pass_the_check_and_broken_ones_do_not(void) {
  static const char* const kFromHost[] = {
      "ping",         "ping_empty",   "quiesce",           "resume",         "resume_thaw",
      "shutdown",     "exec",         "exec_pty",          "resize",         "signal",
      "signal_group", "data_stdin",   "eof_stdin",         "window_stdout",  "window_stderr",
      "file_read",    "file_write",   "unknown_type",      "dial_tcp",       "dial_unix",
      "release",      "mount_rootfs", "mount_rootfs_disk", "unmount_rootfs", "adopt_main",
      "prepare",      "exec_main"};
  for (size_t i = 0; i < sizeof kFromHost / sizeof kFromHost[0]; i++) {
    struct frame frame = frame_decode(find(kFromHost[i])->bytes);
    CHECK(frame_check(&frame) == NULL);
    if (frame.type == 200) continue;
    struct frame broken = frame;
    broken.flags = 1;
    CHECK(frame_check(&broken) != NULL);
    broken = frame;
    broken.stream = frame.stream ? 0 : 1;
    CHECK(frame_check(&broken) != NULL);
    broken = frame;
    broken.length = kFrameMaxPayloadBytes + 1;
    CHECK(frame_check(&broken) != NULL);
    broken = frame;
    broken.aux = 8;
    CHECK(frame_check(&broken) != NULL);
  }
  struct frame data = {.type = kData, .stream = 1, .length = kDataMaxBytes + 1};
  CHECK(frame_check(&data) != NULL);
  struct frame window = {.type = kWindow, .stream = 1, .aux = kAuxStdin, .value = 1};
  CHECK(frame_check(&window) != NULL);
  struct frame exec = {.type = kExec, .stream = 1, .value = 1};
  CHECK(frame_check(&exec) != NULL);
}

void golden_tests(const char* path) {
  load(path);
  TEST(golden_frames_encode_to_the_same_bytes);
  TEST(golden_tlvs_encode_to_the_same_bytes);
  TEST(golden_fields_mean_what_the_comment_says);
  TEST(host_frames_pass_the_check_and_broken_ones_do_not);
}

static int count_tlvs(uint8_t* bytes, size_t length, enum tlv_result* last) {
  struct tlv_reader reader = {.next = bytes, .end = bytes + length};
  struct tlv tlv;
  int count = 0;
  while ((*last = tlv_next(&reader, &tlv)) == kTlvGot) count++;
  return count;
}

static void a_cut_or_overlong_tlv_is_malformed(void) {
  enum tlv_result last;
  // Exactly sized heap copies, so that the sanitizer sees one byte too many.
  for (size_t cut = 0; cut <= 12; cut++) {
    uint8_t whole[12] = {40, 0, 0, 0, 4, 0, 0, 0, 'a', 'b', 'c', 'd'};
    uint8_t* bytes = malloc(cut + (cut == 0));
    memcpy(bytes, whole, cut);
    int count = count_tlvs(bytes, cut, &last);
    CHECK(count == (cut == 12));
    CHECK(last == (cut == 0 || cut == 12 ? kTlvEnd : kTlvMalformed));
    free(bytes);
  }
  uint8_t huge[] = {40, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 'a'};
  CHECK(count_tlvs(huge, sizeof huge, &last) == 0 && last == kTlvMalformed);
  uint8_t reserved[] = {40, 0, 1, 0, 0, 0, 0, 0};
  CHECK(count_tlvs(reserved, sizeof reserved, &last) == 0 && last == kTlvMalformed);
}

static void random_bytes_never_lead_outside_the_payload(void) {
  srand(1);
  for (int round = 0; round < 20000; round++) {
    size_t length = (size_t)(rand() % 64);
    uint8_t* bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++) bytes[i] = (uint8_t)(rand() % 4 ? 0 : rand());
    enum tlv_result last;
    struct tlv_reader reader = {.next = bytes, .end = bytes + length};
    struct tlv tlv;
    while ((last = tlv_next(&reader, &tlv)) == kTlvGot) {
      CHECK(tlv.value >= bytes && tlv.value + tlv.length <= bytes + length);
    }
    free(bytes);
  }
}

static void a_number_of_the_wrong_size_is_refused(void) {
  uint8_t bytes[8] = {1};
  uint32_t small;
  uint64_t large;
  for (uint32_t length = 0; length <= 8; length++) {
    struct tlv tlv = {.length = length, .value = bytes};
    CHECK(tlv_u32(&tlv, &small) == (length == 4));
    CHECK(tlv_u64(&tlv, &large) == (length == 8));
  }
}

static void a_full_writer_reports_overflow_and_writes_no_further(void) {
  uint8_t bytes[20];
  struct tlv_writer writer;
  tlv_begin(&writer, bytes, sizeof bytes);
  tlv_put_u32(&writer, 1, 7);
  CHECK(!writer.overflow && tlv_size(&writer) == 12);
  tlv_put_u32(&writer, 1, 8);
  CHECK(writer.overflow && tlv_size(&writer) == 12);
}

void tlv_tests(void) {
  TEST(a_cut_or_overlong_tlv_is_malformed);
  TEST(random_bytes_never_lead_outside_the_payload);
  TEST(a_number_of_the_wrong_size_is_refused);
  TEST(a_full_writer_reports_overflow_and_writes_no_further);
}
