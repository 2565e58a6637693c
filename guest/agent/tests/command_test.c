// Commands from EXEC to EXIT: results, failures to start, signals, terminals.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"

#define ARGV(...) ((const char* const[]){__VA_ARGS__, NULL})

static struct result run(struct peer* peer, uint16_t aux, const char* const* argv) {
  struct result results[2] = {0};
  peer_exec(peer, 1, aux, argv);
  CHECK(results_collect(peer, results, 1));
  return results[1];
}

static void true_and_false_report_their_exit_codes(void) {
  struct peer* peer = peer_start();
  CHECK(run(peer, kExecNoStdin, ARGV("true")).exit_code == 0);
  struct result result = run(peer, kExecNoStdin, ARGV("false"));
  CHECK(result.started && result.exit_code == 1 && result.exit_signal == 0);
  CHECK(result.eof[0] && result.eof[1]);
  CHECK(run(peer, kExecNoStdin, ARGV("sh", "-c", "exit 77")).exit_code == 77);
  peer_stop(peer);
}

static void output_and_errors_come_apart_or_merged(void) {
  struct peer* peer = peer_start();
  struct result result = run(peer, kExecNoStdin, ARGV("sh", "-c", "echo out; echo err >&2"));
  CHECK(strcmp(result.head[0], "out\n") == 0 && strcmp(result.head[1], "err\n") == 0);
  result = run(peer, kExecNoStdin | kExecMergeStderr, ARGV("sh", "-c", "echo out; echo err >&2"));
  CHECK(strcmp(result.head[0], "out\nerr\n") == 0);
  CHECK(result.eof[0] && !result.eof[1] && result.bytes[1] == 0);
  peer_stop(peer);
}

static void a_command_gets_three_descriptors_clean_signals_and_its_own_session(void) {
  struct peer* peer = peer_start();
  struct result result = run(peer, 0, ARGV("sh", "-c", "ls /proc/self/fd | wc -l"));
  // ls itself holds the directory open.
  CHECK(strcmp(result.head[0], "4\n") == 0);
  result = run(peer, kExecNoStdin, ARGV("grep", "SigBlk", "/proc/self/status"));
  CHECK(strcmp(result.head[0], "SigBlk:\t0000000000000000\n") == 0);
  result =
      run(peer, kExecNoStdin,
          ARGV("sh", "-c", "set -- $(cat /proc/$$/stat); test $1 = $5 && test $1 = $6 && pwd"));
  CHECK(strcmp(result.head[0], "/\n") == 0);
  peer_stop(peer);
}

static void failures_to_start_name_stage_and_errno(void) {
  struct peer* peer = peer_start();
  struct result result = run(peer, 0, ARGV("no-such-command"));
  CHECK(result.error == ENOENT && strcmp(result.stage, "lookup") == 0 && !result.started);
  result = run(peer, 0, ARGV("/no/such/command"));
  CHECK(result.error == ENOENT && strcmp(result.stage, "lookup") == 0);
  result = run(peer, 0, ARGV("/etc/passwd"));
  CHECK(result.error == EACCES && strcmp(result.stage, "exec") == 0);
  result = run(peer, 0, ARGV(""));
  CHECK(result.error == ENOENT && strcmp(result.stage, "lookup") == 0);
  // The number is free again, and nothing is left of the failed ones.
  CHECK(run(peer, 0, ARGV("true")).exit_code == 0);
  peer_stop(peer);
}

static struct result run_payload(struct peer* peer, const uint8_t* payload, uint32_t length) {
  struct result results[2] = {0};
  struct frame frame = {.length = length, .type = kExec, .stream = 1, .aux = kExecNoStdin};
  peer_send(peer, frame, payload);
  CHECK(results_collect(peer, results, 1));
  return results[1];
}

static void path_cwd_environment_and_user_are_the_commands_own(void) {
  struct peer* peer = peer_start();
  uint8_t payload[512];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagEnv, "NAME=value");
  tlv_put_text(&writer, kTagArg, "sh");
  tlv_put_text(&writer, kTagCwd, "/usr/bin");
  tlv_put_text(&writer, kTagArg, "-c");
  tlv_put_u32(&writer, kTagUid, 1234);
  tlv_put_text(&writer, kTagArg, "echo $NAME; pwd; id -u; id -g; id -G");
  tlv_put_u32(&writer, kTagGid, 4321);
  tlv_put(&writer, 999, "skipped", 7);
  struct result result = run_payload(peer, payload, tlv_size(&writer));
  CHECK(strcmp(result.head[0], "value\n/usr/bin\n1234\n4321\n4321\n") == 0);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagArg, "true");
  tlv_put_text(&writer, kTagEnv, "PATH=:bin");
  tlv_put_text(&writer, kTagCwd, "/usr");
  CHECK(run_payload(peer, payload, tlv_size(&writer)).exit_code == 0);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagArg, "true");
  tlv_put_text(&writer, kTagCwd, "/no/such/place");
  result = run_payload(peer, payload, tlv_size(&writer));
  CHECK(result.error == ENOENT && strcmp(result.stage, "chdir") == 0);
  peer_stop(peer);
}

static void expect_decode_error(struct peer* peer, struct tlv_writer* writer) {
  struct result result = run_payload(peer, writer->start, tlv_size(writer));
  CHECK(result.error == EINVAL && strcmp(result.stage, "decode") == 0);
}

static void malformed_requests_are_refused_without_harm(void) {
  struct peer* peer = peer_start();
  uint8_t payload[512];
  struct tlv_writer writer;
  tlv_begin(&writer, payload, sizeof payload);
  expect_decode_error(peer, &writer);
  tlv_put(&writer, kTagArg, "a\0b", 3);
  expect_decode_error(peer, &writer);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagArg, "true");
  tlv_put_text(&writer, kTagEnv, "no sign");
  expect_decode_error(peer, &writer);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagArg, "true");
  tlv_put_u32(&writer, kTagUid, UINT32_MAX);
  expect_decode_error(peer, &writer);
  tlv_begin(&writer, payload, sizeof payload);
  tlv_put_text(&writer, kTagArg, "true");
  payload[4] = 200;
  expect_decode_error(peer, &writer);
  CHECK(run(peer, 0, ARGV("true")).exit_code == 0);
  peer_stop(peer);
}

static void a_mebibyte_of_empty_arguments_is_parsed(void) {
  struct peer* peer = peer_start();
  uint8_t* payload = malloc(kFrameMaxPayloadBytes);
  struct tlv_writer writer;
  tlv_begin(&writer, payload, kFrameMaxPayloadBytes);
  tlv_put_text(&writer, kTagArg, "true");
  while (!writer.overflow) tlv_put(&writer, kTagArg, NULL, 0);
  // More than the kernel's limit on pointers or not, it must be answered.
  struct result result = run_payload(peer, payload, tlv_size(&writer));
  CHECK((result.started && result.exit_code == 0) || result.error == E2BIG);
  free(payload);
  CHECK(run(peer, 0, ARGV("true")).exit_code == 0);
  peer_stop(peer);
}

static void signals_reach_the_process_or_its_group(void) {
  struct peer* peer = peer_start();
  for (uint16_t group = 0; group < 2; group++) {
    struct result results[2] = {0};
    peer_exec(peer, 1, 0, ARGV("sleep", "60"));
    struct frame kill_it = {.type = kSignal, .stream = 1, .aux = group, .value = SIGTERM};
    peer_send(peer, kill_it, NULL);
    CHECK(results_collect(peer, results, 1));
    CHECK(results[1].exit_signal == SIGTERM && results[1].exit_code == 0);
  }
  peer_stop(peer);
}

static uint64_t ms_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

static void a_daemon_holding_the_output_delays_the_exit_only_briefly(void) {
  struct peer* peer = peer_start();
  uint64_t start = ms_now();
  struct result result = run(peer, kExecNoStdin, ARGV("sh", "-c", "sleep 3 & echo done; exit 5"));
  uint64_t took = ms_now() - start;
  CHECK(result.exit_code == 5 && strcmp(result.head[0], "done\n") == 0);
  CHECK(took >= kExitGraceMs - 5 && took < 2000);
  // One that never stops writing, and has begun to, does not hold the end up either.
  static const char kEndless[] = "trap 'exit 6' USR1; (echo y; kill -USR1 $$; exec yes) & wait";
  result = run(peer, kExecNoStdin, ARGV("sh", "-c", kEndless));
  CHECK(result.exit_code == 6 && result.bytes[0] > 0);
  peer_stop(peer);
}

static void sixty_four_commands_run_at_once(void) {
  enum { kCount = 64 };
  struct peer* peer = peer_start();
  static struct result results[kCount + 1];
  memset(results, 0, sizeof results);
  for (uint32_t id = 1; id <= kCount; id++) {
    peer_exec(peer, id, kExecNoStdin, ARGV("sh", "-c", "head -c 400000 /dev/zero; exit 9"));
  }
  CHECK(results_collect(peer, results, kCount));
  for (uint32_t id = 1; id <= kCount; id++) {
    CHECK(results[id].exit_code == 9 && results[id].bytes[0] == 400000);
  }
  peer_stop(peer);
}

static void a_terminal_resizes_echoes_and_ends(void) {
  struct peer* peer = peer_start();
  struct result results[2] = {0};
  peer_exec(
      peer, 1, kExecPty,
      ARGV("sh", "-c", "trap 'stty size' WINCH; stty size; tty; read a; read b; echo $a; cat"));
  while (!strstr(results[1].head[0], "/dev/pts/") && peer_read(peer, kPatienceMs)) {
    result_take(peer, results);
  }
  CHECK(strstr(results[1].head[0], "24 80\r\n"));
  struct frame resize = {.type = kResize, .stream = 1, .value = 50u << 16 | 132};
  peer_send(peer, resize, NULL);
  struct frame line = {.length = 5, .type = kData, .stream = 1};
  peer_send(peer, line, "one\n\n");
  while (!strstr(results[1].head[0], "one\r\none") && peer_read(peer, kPatienceMs)) {
    result_take(peer, results);
  }
  // An unfinished line and then the end: cat must see both.
  struct frame rest = {.length = 4, .type = kData, .stream = 1};
  peer_send(peer, rest, "tail");
  peer_send(peer, (struct frame){.type = kEof, .stream = 1}, NULL);
  CHECK(results_collect(peer, results, 1));
  CHECK(strstr(results[1].head[0], "50 132"));
  CHECK(strstr(results[1].head[0], "tailtail"));
  CHECK(results[1].exit_code == 0 && results[1].eof[0] && results[1].bytes[1] == 0);
  peer_stop(peer);
}

void command_tests(void) {
  TEST(true_and_false_report_their_exit_codes);
  TEST(output_and_errors_come_apart_or_merged);
  TEST(a_command_gets_three_descriptors_clean_signals_and_its_own_session);
  TEST(failures_to_start_name_stage_and_errno);
  TEST(path_cwd_environment_and_user_are_the_commands_own);
  TEST(malformed_requests_are_refused_without_harm);
  TEST(a_mebibyte_of_empty_arguments_is_parsed);
  TEST(signals_reach_the_process_or_its_group);
  TEST(a_daemon_holding_the_output_delays_the_exit_only_briefly);
  TEST(sixty_four_commands_run_at_once);
  TEST(a_terminal_resizes_echoes_and_ends);
}
