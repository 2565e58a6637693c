// Processes that wait to be forked: greeting, payload, and what becomes of their socket.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"

#define ARGV(...) ((const char* const[]){__VA_ARGS__, NULL})

// An agent that looks at its socket: one without children sleeps on its connection alone.
static struct peer* start_with_a_child(void) {
  struct peer* peer = peer_start();
  peer_exec(peer, 100, kExecNoStdin, ARGV("sleep", "60"));
  CHECK(peer_expect(peer, kStarted, 100));
  return peer;
}

static void stop(struct peer* peer) {
  peer_send(peer, (struct frame){.type = kSignal, .stream = 100, .value = SIGKILL}, NULL);
  while (peer_read(peer, kPatienceMs) && peer->frame.type != kExit) continue;
  peer_stop(peer);
}

static int greet(const struct peer* peer, const char* greeting) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%.60s/run/vmfork/fork-point.sock",
           peer->root);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd, (struct sockaddr*)&address, sizeof address) == 0);
  // One that is hung up on at once cannot send; its test sees that when it reads.
  send(fd, greeting, strlen(greeting), MSG_NOSIGNAL);
  return fd;
}

static bool expect_point(struct peer* peer, const char* name, uint16_t aux) {
  if (!peer_expect(peer, kForkPoint, 0) || peer->frame.aux != aux) return false;
  struct tlv_reader reader = {.next = peer->payload, .end = peer->payload + peer->frame.length};
  struct tlv tlv;
  return tlv_next(&reader, &tlv) == kTlvGot && tlv.tag == kTagForkPoint &&
         tlv.length == strlen(name) && memcmp(tlv.value, name, tlv.length) == 0;
}

static void release(struct peer* peer, uint32_t stream, const char* name, const char* payload) {
  uint8_t bytes[256];
  struct tlv_writer writer;
  tlv_begin(&writer, bytes, sizeof bytes);
  tlv_put_text(&writer, kTagPayload, payload);
  if (name) tlv_put_text(&writer, kTagForkPoint, name);
  struct frame frame = {.length = tlv_size(&writer), .type = kRelease, .stream = stream};
  peer_send(peer, frame, bytes);
}

static bool takes_payload(int fd, const char* text) {
  struct {
    uint32_t length;
    char bytes[256];
  } message;
  ssize_t count = recv(fd, &message, sizeof message, 0);
  return count == (ssize_t)(sizeof message.length + strlen(text)) &&
         message.length == strlen(text) && memcmp(message.bytes, text, strlen(text)) == 0;
}

static bool dropped(int fd) {
  char byte;
  bool ended = recv(fd, &byte, 1, 0) <= 0;
  close(fd);
  return ended;
}

static void a_waiting_process_gets_its_payload_and_a_stream(void) {
  struct peer* peer = start_with_a_child();
  int fd = greet(peer, "FORK-POINT 1 warm\n");
  CHECK(expect_point(peer, "warm", 0));
  release(peer, 1, NULL, "payload");
  CHECK(peer_expect(peer, kConnected, 1));
  CHECK(takes_payload(fd, "payload"));
  CHECK(send(fd, "result", 6, 0) == 6);
  CHECK(peer_expect(peer, kData, 1) && memcmp(peer->payload, "result", 6) == 0);
  peer_send(peer, (struct frame){.length = 4, .type = kData, .stream = 1}, "more");
  char bytes[8];
  CHECK(recv(fd, bytes, sizeof bytes, 0) == 4 && memcmp(bytes, "more", 4) == 0);
  close(fd);
  CHECK(peer_expect(peer, kEof, 1));
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  CHECK(peer_expect(peer, kClosed, 1) && peer->frame.value == 0);
  stop(peer);
}

static void a_process_is_chosen_by_its_name(void) {
  struct peer* peer = start_with_a_child();
  int first = greet(peer, "FORK-POINT 1 first\n");
  CHECK(expect_point(peer, "first", 0));
  int second = greet(peer, "FORK-POINT 1 second\n");
  CHECK(expect_point(peer, "second", 0));
  release(peer, 1, "third", "x");
  CHECK(peer_expect(peer, kError, 1) && peer->frame.value == ENOENT);
  release(peer, 1, "second", "for second");
  CHECK(peer_expect(peer, kConnected, 1) && takes_payload(second, "for second"));
  release(peer, 2, "second", "again");
  CHECK(peer_expect(peer, kError, 2) && peer->frame.value == ENOENT);
  release(peer, 2, NULL, "for first");
  CHECK(peer_expect(peer, kConnected, 2) && takes_payload(first, "for first"));
  close(first);
  close(second);
  stop(peer);
}

static void one_that_leaves_is_reported(void) {
  struct peer* peer = start_with_a_child();
  int fd = greet(peer, "FORK-POINT 1 a\n");
  CHECK(expect_point(peer, "a", 0));
  close(fd);
  CHECK(expect_point(peer, "a", kForkPointLeft));
  // Speaking before the payload has come is leaving, too.
  fd = greet(peer, "FORK-POINT 1 b\n");
  CHECK(expect_point(peer, "b", 0));
  CHECK(send(fd, "!", 1, MSG_NOSIGNAL) == 1);
  CHECK(expect_point(peer, "b", kForkPointLeft) && dropped(fd));
  stop(peer);
}

static void a_wrong_greeting_is_hung_up_on(void) {
  static const char kLong[] =
      "FORK-POINT 1 0123456789012345678901234567890123456789012345678901234567890123456789\n";
  static const char* const kWrong[] = {
      "HELLO\n",
      "FORK-POINT 2 a\n",
      "FORK-POINT 1 \n",
      "FORK-POINT 1 a b\n",
      "\n",
      "FORK-POINT 1 a\nmore",
      kLong,
  };
  struct peer* peer = start_with_a_child();
  for (size_t i = 0; i < sizeof kWrong / sizeof kWrong[0]; i++) {
    CHECK(dropped(greet(peer, kWrong[i])));
  }
  CHECK(!peer_read(peer, 100));
  int fd = greet(peer, "FORK-");
  CHECK(send(fd, "POINT 1 slow\n", 13, MSG_NOSIGNAL) == 13);
  CHECK(expect_point(peer, "slow", 0));
  close(fd);
  stop(peer);
}

static void the_table_is_bounded(void) {
  enum { kPoints = 16 };
  struct peer* peer = start_with_a_child();
  int fds[kPoints];
  for (int i = 0; i < kPoints; i++) {
    fds[i] = greet(peer, "FORK-POINT 1 many\n");
    CHECK(expect_point(peer, "many", 0));
  }
  CHECK(dropped(greet(peer, "FORK-POINT 1 many\n")));
  for (int i = 0; i < kPoints; i++) close(fds[i]);
  for (int i = 0; i < kPoints; i++) CHECK(expect_point(peer, "many", kForkPointLeft));
  stop(peer);
}

static void a_process_of_the_source_goes_on_waiting(void) {
  struct peer* peer = start_with_a_child();
  int fd = greet(peer, "FORK-POINT 1 warm\n");
  CHECK(expect_point(peer, "warm", 0));
  peer_send(peer, (struct frame){.type = kQuiesce}, NULL);
  CHECK(peer_expect(peer, kQuiesced, 0));
  peer_send(peer, (struct frame){.type = kResume, .aux = kResumeThawOnly}, NULL);
  CHECK(peer_expect(peer, kResumed, 0));
  CHECK(!peer_read(peer, 100));
  release(peer, 1, "warm", "late");
  CHECK(peer_expect(peer, kConnected, 1) && takes_payload(fd, "late"));
  close(fd);
  stop(peer);
}

void forkpoint_tests(void) {
  TEST(a_waiting_process_gets_its_payload_and_a_stream);
  TEST(a_process_is_chosen_by_its_name);
  TEST(one_that_leaves_is_reported);
  TEST(a_wrong_greeting_is_hung_up_on);
  TEST(the_table_is_bounded);
  TEST(a_process_of_the_source_goes_on_waiting);
}
