// Streams under credit: big outputs, stalled readers and writers, and a host that breaks the rules.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"

#define ARGV(...) ((const char* const[]){__VA_ARGS__, NULL})

enum { kBigBytes = 16 << 20 };

static void a_big_output_passes_unharmed(void) {
  struct peer* peer = peer_start();
  struct result results[2] = {0};
  peer_exec(peer, 1, kExecNoStdin, ARGV("sh", "-c", "yes 0123456789abcde | head -c 16777216"));
  CHECK(results_collect(peer, results, 1));
  uint64_t hash = HASH_START;
  for (int i = 0; i < kBigBytes / 16; i++) {
    hash = hash_bytes(hash, (const uint8_t*)"0123456789abcde\n", 16);
  }
  CHECK(results[1].bytes[0] == kBigBytes && results[1].hash[0] == hash);
  peer_stop(peer);
}

static void send_data(struct peer* peer, const uint8_t* bytes, uint32_t length) {
  struct frame data = {.length = length, .type = kData, .stream = 1};
  peer_send(peer, data, bytes);
}

// Sends 16 MiB under credit while taking whatever comes back.
static uint64_t feed(struct peer* peer, struct result* results) {
  static uint8_t piece[kDataMaxBytes];
  uint32_t credit = kWindowBytes;
  uint64_t hash = HASH_START;
  srand(7);
  for (size_t sent = 0; sent < kBigBytes;) {
    while (credit < sizeof piece) {
      if (!peer_read(peer, kPatienceMs)) return 0;
      if (peer->frame.type == kWindow) credit += peer->frame.value;
      CHECK(credit <= kWindowBytes);
      result_take(peer, results);
    }
    for (size_t i = 0; i < sizeof piece; i++) piece[i] = (uint8_t)rand();
    hash = hash_bytes(hash, piece, sizeof piece);
    send_data(peer, piece, sizeof piece);
    credit -= (uint32_t)sizeof piece;
    sent += sizeof piece;
  }
  return hash;
}

static void a_big_input_comes_back_through_cat(void) {
  struct peer* peer = peer_start();
  struct result results[2] = {0};
  peer_exec(peer, 1, 0, ARGV("cat"));
  uint64_t hash = feed(peer, results);
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  CHECK(results_collect(peer, results, 1));
  CHECK(results[1].bytes[0] == kBigBytes && results[1].hash[0] == hash);
  peer_stop(peer);
}

static size_t take_without_credit(struct peer* peer, int timeout_ms, bool* ended) {
  size_t total = 0;
  while (peer_read(peer, timeout_ms)) {
    if (peer->frame.type == kData) total += peer->frame.length;
    if (peer->frame.type == kExit) *ended = true;
  }
  return total;
}

static void output_stops_when_the_credit_is_used_up_and_goes_on_with_more(void) {
  struct peer* peer = peer_start();
  bool ended = false;
  peer_exec(peer, 1, kExecNoStdin, ARGV("head", "-c", "300000", "/dev/zero"));
  CHECK(take_without_credit(peer, 400, &ended) == kWindowBytes && !ended);
  struct frame window = {.type = kWindow, .stream = 1, .aux = kAuxStdout, .value = 1000};
  peer_send(peer, window, NULL);
  CHECK(take_without_credit(peer, 200, &ended) == 1000 && !ended);
  window.value = 1 << 20;
  peer_send(peer, window, NULL);
  CHECK(take_without_credit(peer, 200, &ended) == 300000 - kWindowBytes - 1000 && ended);
  peer_stop(peer);
}

static void a_stalled_command_does_not_hold_up_the_others(void) {
  struct peer* peer = peer_start();
  static const uint8_t piece[kDataMaxBytes];
  struct result results[3] = {0};
  peer_exec(peer, 1, 0, ARGV("sleep", "60"));
  for (int i = 0; i < kWindowBytes / kDataMaxBytes; i++) send_data(peer, piece, sizeof piece);
  peer_exec(peer, 2, kExecNoStdin, ARGV("echo", "still here"));
  CHECK(results_collect(peer, results, 1));
  CHECK(results[2].ended && strcmp(results[2].head[0], "still here\n") == 0);
  struct frame kill_it = {.type = kSignal, .stream = 1, .value = SIGKILL};
  peer_send(peer, kill_it, NULL);
  CHECK(results_collect(peer, results, 1) && results[1].exit_signal == SIGKILL);
  peer_stop(peer);
}

static void input_for_a_program_that_closed_it_is_dropped_with_credit(void) {
  struct peer* peer = peer_start();
  struct result results[2] = {0};
  peer_exec(peer, 1, 0, ARGV("sh", "-c", "exec 0<&-; exec sleep 60"));
  CHECK(feed(peer, results) != 0);
  peer_send(peer, (struct frame){.type = kSignal, .stream = 1, .value = SIGKILL}, NULL);
  CHECK(results_collect(peer, results, 1) && results[1].exit_signal == SIGKILL);
  peer_stop(peer);
}

static void a_peer_that_does_not_read_stops_the_agent_not_its_memory(void) {
  enum { kPings = 200 };
  struct peer* peer = peer_start();
  static const uint8_t piece[kDataMaxBytes];
  pid_t sender = fork();
  if (sender == 0) {
    struct frame ping = {.length = sizeof piece, .type = kPing};
    for (uint32_t i = 0; i < kPings; i++) {
      ping.value = i;
      peer_send(peer, ping, piece);
    }
    _exit(0);
  }
  // 12 MiB of pings against 256 KiB of queue: all come back, in order.
  for (uint32_t i = 0; i < kPings; i++) {
    CHECK(peer_expect(peer, kPong, 0) && peer->frame.value == i);
    CHECK(peer->frame.length == sizeof piece);
  }
  waitpid(sender, NULL, 0);
  peer_stop(peer);
}

static void expect_refused(struct peer* peer) {
  bool logged = false;
  while (peer_read(peer, kPatienceMs)) logged |= peer->frame.type == kLog;
  CHECK(logged);
  CHECK(peer_wait_end(peer) == 1);
}

static void data_without_credit_ends_the_connection(void) {
  struct peer* peer = peer_start();
  static const uint8_t piece[kDataMaxBytes];
  peer_exec(peer, 1, 0, ARGV("sleep", "5"));
  // One piece fits the pipe and is returned as credit; the host does not wait for that.
  for (int i = 0; i < 7; i++) send_data(peer, piece, sizeof piece);
  expect_refused(peer);
}

static void broken_headers_end_the_connection(void) {
  static const struct frame kBroken[] = {
      {.length = kFrameMaxPayloadBytes + 1, .type = 200, .stream = 1},
      {.length = UINT32_MAX, .type = kExec, .stream = 1},
      {.length = kDataMaxBytes + 1, .type = kData, .stream = 1},
      {.type = kPing, .flags = 1},
      {.type = kExec},
      {.type = kPing, .stream = 1},
      {.type = kWindow, .stream = 1, .aux = 3, .value = 1},
      {.type = kResume, .value = 1},
  };
  for (size_t i = 0; i < sizeof kBroken / sizeof kBroken[0]; i++) {
    struct peer* peer = peer_start();
    uint8_t header[kFrameHeaderBytes];
    frame_encode(&kBroken[i], header);
    peer_send_raw(peer, header, sizeof header);
    expect_refused(peer);
  }
}

static void frames_arrive_in_any_pieces(void) {
  struct peer* peer = peer_start();
  uint8_t bytes[2 * (kFrameHeaderBytes + 3)];
  struct frame ping = {.length = 3, .type = kPing, .value = 1};
  for (int i = 0; i < 2; i++) {
    frame_encode(&ping, bytes + i * (kFrameHeaderBytes + 3));
    memcpy(bytes + i * (kFrameHeaderBytes + 3) + kFrameHeaderBytes, "abc", 3);
  }
  for (size_t i = 0; i < sizeof bytes; i++) peer_send_raw(peer, bytes + i, 1);
  CHECK(peer_expect(peer, kPong, 0) && memcmp(peer->payload, "abc", 3) == 0);
  CHECK(peer_expect(peer, kPong, 0));
  peer_send_raw(peer, bytes, sizeof bytes);
  CHECK(peer_expect(peer, kPong, 0) && peer_expect(peer, kPong, 0));
  peer_stop(peer);
}

static void stand_still(const struct peer* peer) {
  int status;
  kill(peer->pid, SIGSTOP);
  CHECK(waitpid(peer->pid, &status, WUNTRACED) == peer->pid && WIFSTOPPED(status));
}

// Until a process that is no child of ours has ended, reaped or not.
static void await_end(pid_t pid) {
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  struct pollfd end = {.fd = fd, .events = POLLIN};
  CHECK(fd >= 0 && poll(&end, 1, kPatienceMs) == 1);
  close(fd);
}

// A starved agent finds bytes, the end of the pipe and the end of the process in one wake-up.
static void the_end_of_a_command_is_seen_together_with_its_last_bytes(void) {
  struct peer* peer = peer_start();
  struct result results[4] = {0};
  char go[96];
  snprintf(go, sizeof go, "%s/go", peer->root);
  CHECK(mkfifo(go, 0600) == 0);
  int gate = open(go, O_RDWR | O_CLOEXEC);
  peer_exec(peer, 1, kExecNoStdin, ARGV("sh", "-c", "read word < $0; echo late", go));
  CHECK(peer_expect(peer, kStarted, 1));
  const pid_t command = (pid_t)peer->frame.value;
  results[1].started = true;
  stand_still(peer);
  CHECK(write(gate, "\n", 1) == 1);
  await_end(command);
  close(gate);
  // The first one must not wait for the grace. The second one may overtake it on its last metre;
  // the third one starts when the second one is known to be over, and so the first one.
  for (uint32_t stream = 2; stream <= 3; stream++) {
    peer_exec(peer, stream, kExecNoStdin, ARGV("true"));
    kill(peer->pid, SIGCONT);
    while (!results[stream].ended && peer_read(peer, kPatienceMs)) result_take(peer, results);
  }
  CHECK(results[1].ended && strcmp(results[1].head[0], "late\n") == 0);
  CHECK(results[1].eof[0] && results[1].eof[1]);
  peer_stop(peer);
}

static void an_unknown_type_is_answered_and_survived(void) {
  struct peer* peer = peer_start();
  struct frame unknown = {.length = 1, .type = 200, .flags = 4, .stream = 9, .aux = 1};
  peer_send(peer, unknown, "?");
  CHECK(peer_expect(peer, kError, 9) && peer->frame.value == 38);
  peer_send(peer, (struct frame){.type = kHello}, NULL);
  CHECK(peer_expect(peer, kError, 0) && peer->frame.value == 38);
  // Frames that crossed the end of their stream are no error.
  peer_send(peer, (struct frame){.type = kWindow, .stream = 3, .aux = 1, .value = 9}, NULL);
  peer_send(peer, (struct frame){.type = kSignal, .stream = 3, .value = 9}, NULL);
  peer_send(peer, (struct frame){.type = kPing}, NULL);
  CHECK(peer_expect(peer, kPong, 0));
  peer_stop(peer);
}

void flow_tests(void) {
  TEST(a_big_output_passes_unharmed);
  TEST(a_big_input_comes_back_through_cat);
  TEST(output_stops_when_the_credit_is_used_up_and_goes_on_with_more);
  TEST(a_stalled_command_does_not_hold_up_the_others);
  TEST(input_for_a_program_that_closed_it_is_dropped_with_credit);
  TEST(a_peer_that_does_not_read_stops_the_agent_not_its_memory);
  TEST(data_without_credit_ends_the_connection);
  TEST(broken_headers_end_the_connection);
  TEST(frames_arrive_in_any_pieces);
  TEST(the_end_of_a_command_is_seen_together_with_its_last_bytes);
  TEST(an_unknown_type_is_answered_and_survived);
}
