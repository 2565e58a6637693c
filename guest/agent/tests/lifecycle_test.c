// HELLO, QUIESCE, RESUME in the source and in a fork, the identity files, and the end.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "peer.h"

#define ARGV(...) ((const char* const[]){__VA_ARGS__, NULL})

static void hello_tells_what_the_document_promises(void) {
  struct peer* peer = peer_start();
  struct tlv_reader reader = {.next = peer->payload, .end = peer->payload + peer->frame.length};
  struct tlv tlv;
  unsigned seen = 0;
  while (tlv_next(&reader, &tlv) == kTlvGot) {
    seen |= 1u << tlv.tag;
    if (tlv.tag == kTagBootNonce) CHECK(tlv.length == 16);
    if (tlv.tag == kTagKernel) CHECK(tlv.length > 0);
  }
  CHECK(seen == 0x7e);
  peer_stop(peer);
}

static void quiesce(struct peer* peer) {
  peer_send(peer, (struct frame){.type = kQuiesce, .value = 5}, NULL);
  while (peer_read(peer, kPatienceMs) && peer->frame.type != kQuiesced) continue;
  CHECK(peer->frame.type == kQuiesced && peer->frame.value == 5);
}

static const char kMachineId[] = "0123456789abcdef0123456789abcdef";
static const char kBootId[] = "8e1f4a52-5c1d-4f7b-9b0a-0123456789ab";

static uint32_t identity_payload(uint8_t* payload, const char* hostname, int leave_out) {
  static const uint8_t kBytes[32] = {0xab, 0xcd};
  struct tlv_writer writer;
  tlv_begin(&writer, payload, 512);
  if (leave_out != kTagGenerationId) tlv_put(&writer, kTagGenerationId, kBytes, 16);
  if (leave_out != kTagEntropy) tlv_put(&writer, kTagEntropy, kBytes, 32);
  if (leave_out != kTagRealtimeNs) tlv_put_u64(&writer, kTagRealtimeNs, 1700000000000000000u);
  if (leave_out != kTagHostname) tlv_put_text(&writer, kTagHostname, hostname);
  if (leave_out != kTagMachineId) tlv_put_text(&writer, kTagMachineId, kMachineId);
  if (leave_out != kTagCid) tlv_put_u32(&writer, kTagCid, 42);
  if (leave_out != kTagBootId) tlv_put_text(&writer, kTagBootId, kBootId);
  return tlv_size(&writer);
}

static void resume(struct peer* peer, const char* hostname, int leave_out) {
  uint8_t payload[512];
  uint32_t length = identity_payload(payload, hostname, leave_out);
  peer_send(peer, (struct frame){.length = length, .type = kResume, .value = 6}, payload);
}

static bool file_holds(const struct peer* peer, const char* name, const char* text) {
  char path[128];
  char bytes[256] = "";
  snprintf(path, sizeof path, "%s/%s", peer->root, name);
  FILE* file = fopen(path, "r");
  if (!file) return false;
  size_t count = fread(bytes, 1, sizeof bytes - 1, file);
  fclose(file);
  return count == strlen(text) && memcmp(bytes, text, count) == 0;
}

static void a_fork_becomes_itself(void) {
  struct peer* peer = peer_start();
  // Longer than the template's name, shorter, and as long: the sizes of the files follow.
  static const char* const kNames[] = {"a-much-longer-name.example.org", "b", "vmfork-0000002a"};
  for (size_t i = 0; i < 3; i++) {
    char line[96];
    quiesce(peer);
    resume(peer, kNames[i], 0);
    CHECK(peer_expect(peer, kResumed, 0) && peer->frame.value == 6);
    snprintf(line, sizeof line, "%s\n", kNames[i]);
    CHECK(file_holds(peer, "etc/hostname", line));
    snprintf(line, sizeof line, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 %s\n",
             kNames[i]);
    CHECK(file_holds(peer, "etc/hosts", line));
    CHECK(file_holds(peer, "etc/machine-id", "0123456789abcdef0123456789abcdef\n"));
    CHECK(file_holds(peer, "run/vmfork/boot_id", "8e1f4a52-5c1d-4f7b-9b0a-0123456789ab\n"));
    CHECK(file_holds(peer, "run/vmfork/generation", "abcd0000000000000000000000000000\n"));
  }
  peer_stop(peer);
}

static void change(const struct peer* peer, const char* name, const char* mode, const char* text) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", peer->root, name);
  FILE* file = fopen(path, mode);
  CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

// Before the agent comes to rest and while it rests; names of the usual length and another.
static void files_that_somebody_changed_are_left_to_them(void) {
  static const char kOwnHosts[] = "127.0.0.1 own-name\n::1 a-line-that-is-longer-than-the-agents\n";
  static const char* const kNames[] = {"vmfork-0000002a", "another-length"};
  for (int at_rest = 0; at_rest < 2; at_rest++) {
    for (size_t i = 0; i < 2; i++) {
      struct peer* peer = peer_start();
      if (at_rest) quiesce(peer);
      change(peer, "etc/machine-id", "w", "");
      change(peer, "etc/hosts", "w", kOwnHosts);
      change(peer, "etc/hostname", "r+", "VMFORK");
      change(peer, "run/vmfork/boot_id", "w", "short\n");
      if (!at_rest) quiesce(peer);
      for (int round = 0; round < 2; round++) {
        resume(peer, kNames[i], 0);
        CHECK(peer_expect(peer, kResumed, 0));
        CHECK(file_holds(peer, "etc/machine-id", ""));
        CHECK(file_holds(peer, "etc/hosts", kOwnHosts));
        CHECK(file_holds(peer, "etc/hostname", "VMFORK-00000000\n"));
        CHECK(file_holds(peer, "run/vmfork/boot_id", "short\n"));
        CHECK(file_holds(peer, "run/vmfork/generation", "abcd0000000000000000000000000000\n"));
        quiesce(peer);
      }
      resume(peer, kNames[i], 0);
      CHECK(peer_expect(peer, kResumed, 0));
      peer_stop(peer);
    }
  }
}

static void an_incomplete_identity_is_refused_and_the_agent_stays_frozen(void) {
  struct peer* peer = peer_start();
  quiesce(peer);
  for (int tag = kTagGenerationId; tag <= kTagBootId; tag++) {
    resume(peer, "name", tag);
    CHECK(peer_expect(peer, kError, 0) && peer->frame.value == EINVAL);
  }
  resume(peer, "bad name", 0);
  CHECK(peer_expect(peer, kError, 0) && peer->frame.value == EINVAL);
  resume(peer, "", 0);
  CHECK(peer_expect(peer, kError, 0) && peer->frame.value == EINVAL);
  resume(peer, "good-name", 0);
  CHECK(peer_expect(peer, kResumed, 0));
  peer_stop(peer);
}

static void a_first_command_rides_behind_resume(void) {
  struct peer* peer = peer_start();
  quiesce(peer);
  uint8_t bytes[1024];
  uint32_t length = identity_payload(bytes + kFrameHeaderBytes, "clone", 0);
  frame_encode(&(struct frame){.length = length, .type = kResume, .value = 6}, bytes);
  uint8_t* exec = bytes + kFrameHeaderBytes + length;
  uint32_t exec_length = exec_payload(exec + kFrameHeaderBytes, 256, ARGV("echo", "first"));
  frame_encode(&(struct frame){.length = exec_length, .type = kExec, .stream = 1}, exec);
  peer_send_raw(peer, bytes, 2 * kFrameHeaderBytes + length + exec_length);
  CHECK(peer_expect(peer, kResumed, 0));
  struct result results[2] = {0};
  CHECK(results_collect(peer, results, 1) && strcmp(results[1].head[0], "first\n") == 0);
  peer_stop(peer);
}

static void start_talker(struct peer* peer) {
  struct result results[2] = {0};
  peer_exec(peer, 1, 0, ARGV("sh", "-c", "while :; do echo tick; sleep 0.02; done"));
  while (results[1].bytes[0] < 15 && peer_read(peer, kPatienceMs)) result_take(peer, results);
}

static void a_frozen_agent_is_silent_and_its_commands_go_on_when_thawed(void) {
  struct peer* peer = peer_start();
  start_talker(peer);
  quiesce(peer);
  CHECK(!peer_read(peer, 300));
  peer_send(peer, (struct frame){.type = kResume, .aux = kResumeThawOnly, .value = 8}, NULL);
  CHECK(peer_expect(peer, kResumed, 0) && peer->frame.value == 8);
  CHECK(peer_expect(peer, kData, 1));
  struct result results[2] = {{0}, {.started = true}};
  peer_send(peer, (struct frame){.type = kSignal, .stream = 1, .aux = 1, .value = SIGKILL}, NULL);
  CHECK(results_collect(peer, results, 1) && results[1].exit_signal == SIGKILL);
  peer_stop(peer);
}

static void a_fork_detaches_the_commands_it_inherited(void) {
  struct peer* peer = peer_start();
  start_talker(peer);
  quiesce(peer);
  resume(peer, "clone", 0);
  CHECK(peer_expect(peer, kResumed, 0));
  CHECK(!peer_read(peer, 300));
  // The old one still runs, and its number is free.
  struct result results[2] = {0};
  peer_exec(peer, 1, kExecNoStdin, ARGV("pkill", "-c", "-f", "echo tick; sleep 0.0[2]"));
  CHECK(results_collect(peer, results, 1) && results[1].exit_code == 0);
  CHECK(strcmp(results[1].head[0], "1\n") == 0);
  CHECK(!peer_read(peer, 300));
  peer_stop(peer);
}

static void a_command_that_ended_while_frozen_is_reported_after_the_thaw(void) {
  struct peer* peer = peer_start();
  struct result results[2] = {0};
  peer_exec(peer, 1, kExecNoStdin, ARGV("sh", "-c", "sleep 0.1; exit 4"));
  CHECK(peer_expect(peer, kStarted, 1));
  results[1].started = true;
  quiesce(peer);
  CHECK(!peer_read(peer, 300));
  peer_send(peer, (struct frame){.type = kResume, .aux = kResumeThawOnly}, NULL);
  CHECK(peer_expect(peer, kResumed, 0));
  CHECK(results_collect(peer, results, 1) && results[1].exit_code == 4);
  peer_stop(peer);
}

static void anything_but_resume_ends_a_frozen_agent(void) {
  struct peer* peer = peer_start();
  quiesce(peer);
  peer_send(peer, (struct frame){.type = kPing}, NULL);
  CHECK(peer_expect(peer, kLog, 0));
  CHECK(peer_wait_end(peer) == 1);
}

void lifecycle_tests(void) {
  TEST(hello_tells_what_the_document_promises);
  TEST(a_fork_becomes_itself);
  TEST(files_that_somebody_changed_are_left_to_them);
  TEST(an_incomplete_identity_is_refused_and_the_agent_stays_frozen);
  TEST(a_first_command_rides_behind_resume);
  TEST(a_frozen_agent_is_silent_and_its_commands_go_on_when_thawed);
  TEST(a_fork_detaches_the_commands_it_inherited);
  TEST(a_command_that_ended_while_frozen_is_reported_after_the_thaw);
  TEST(anything_but_resume_ends_a_frozen_agent);
}
