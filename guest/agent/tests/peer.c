// Speaks the protocol from the host's side, with blocking calls and time limits.
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "container.h"
#include "events.h"
#include "forkpoint.h"
#include "identity.h"
#include "link.h"
#include "loop.h"

static void make_root(struct peer* peer) {
  char path[96];
  snprintf(peer->root, sizeof peer->root, "/tmp/agent-test-XXXXXX");
  if (!mkdtemp(peer->root)) abort();
  snprintf(path, sizeof path, "%s/etc", peer->root);
  mkdir(path, 0755);
  snprintf(path, sizeof path, "%s/run", peer->root);
  mkdir(path, 0755);
}

static void remove_root(const struct peer* peer) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", peer->root);
  if (system(command) != 0) abort();
}

_Noreturn static void be_agent(int fd, const char* root) {
  char socket_path[96];
  snprintf(socket_path, sizeof socket_path, "%s/run/vmfork/fork-point.sock", root);
  int root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  identity_init(root_fd, false);
  // What the test's own parent left open is not the agent's.
  if (chdir("/") < 0 || close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) abort();
  events_init();
  container_init(root, false);
  forkpoint_init(socket_path);
  link_adopt(fd);
  loop_run(false);
}

struct peer* peer_start(void) {
  struct peer* peer = calloc(1, sizeof *peer);
  int fds[2];
  if (!peer || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) abort();
  make_root(peer);
  peer->pid = fork();
  if (peer->pid == 0) {
    close(fds[0]);
    be_agent(fds[1], peer->root);
  }
  close(fds[1]);
  peer->fd = fds[0];
  CHECK(peer_expect(peer, kHello, 0));
  CHECK(peer->frame.value == kProtocolGeneration);
  return peer;
}

static void pause_ms(long ms) {
  struct timespec time = {.tv_sec = 0, .tv_nsec = ms * 1000000};
  nanosleep(&time, NULL);
}

int peer_wait_end(struct peer* peer) {
  int status = -1;
  pid_t ended = 0;
  for (int i = 0; i < 500 && (ended = waitpid(peer->pid, &status, WNOHANG)) == 0; i++) pause_ms(10);
  if (ended == 0) {
    kill(peer->pid, SIGKILL);
    waitpid(peer->pid, &status, 0);
    status = -1;
  }
  close(peer->fd);
  remove_root(peer);
  free(peer);
  return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

void peer_stop(struct peer* peer) {
  peer_send(peer, (struct frame){.type = kShutdown}, NULL);
  CHECK(peer_wait_end(peer) == 0);
}

void peer_send_raw(struct peer* peer, const void* bytes, size_t length) {
  const uint8_t* next = bytes;
  while (length > 0) {
    ssize_t count = send(peer->fd, next, length, MSG_NOSIGNAL);
    if (count <= 0) return;
    next += count;
    length -= (size_t)count;
  }
}

void peer_send(struct peer* peer, struct frame frame, const void* payload) {
  uint8_t header[kFrameHeaderBytes];
  frame_encode(&frame, header);
  peer_send_raw(peer, header, sizeof header);
  peer_send_raw(peer, payload, frame.length);
}

static bool read_exactly(int fd, uint8_t* to, size_t length, int timeout_ms) {
  while (length > 0) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    if (poll(&poll_fd, 1, timeout_ms) <= 0) return false;
    ssize_t count = recv(fd, to, length, 0);
    if (count <= 0) return false;
    to += count;
    length -= (size_t)count;
  }
  return true;
}

bool peer_read(struct peer* peer, int timeout_ms) {
  uint8_t header[kFrameHeaderBytes];
  if (!read_exactly(peer->fd, header, sizeof header, timeout_ms)) return false;
  peer->frame = frame_decode(header);
  CHECK(peer->frame.length <= kFrameMaxPayloadBytes && peer->frame.flags == 0);
  CHECK(peer->frame.type != kData || peer->frame.length <= kDataMaxBytes);
  return read_exactly(peer->fd, peer->payload, peer->frame.length, timeout_ms);
}

bool peer_expect(struct peer* peer, uint8_t type, uint32_t stream) {
  return peer_read(peer, kPatienceMs) && peer->frame.type == type && peer->frame.stream == stream;
}

uint32_t exec_payload(uint8_t* payload, size_t capacity, const char* const* argv) {
  struct tlv_writer writer;
  tlv_begin(&writer, payload, capacity);
  for (; *argv; argv++) tlv_put_text(&writer, kTagArg, *argv);
  tlv_put_text(&writer, kTagEnv, "PATH=/usr/bin:/bin");
  return tlv_size(&writer);
}

void peer_exec(struct peer* peer, uint32_t stream, uint16_t aux, const char* const* argv) {
  uint8_t payload[4096];
  uint32_t length = exec_payload(payload, sizeof payload, argv);
  struct frame frame = {.length = length, .type = kExec, .stream = stream, .aux = aux};
  peer_send(peer, frame, payload);
}

uint64_t hash_bytes(uint64_t hash, const uint8_t* bytes, size_t length) {
  for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return hash;
}

static void take_data(struct peer* peer, struct result* result) {
  const struct frame* frame = &peer->frame;
  int index = frame->aux - kAuxStdout;
  CHECK(result->started && !result->ended && !result->eof[index]);
  size_t room = sizeof result->head[0] - 1;
  for (uint32_t i = 0; i < frame->length && result->bytes[index] + i < room; i++) {
    result->head[index][result->bytes[index] + i] = (char)peer->payload[i];
  }
  if (result->bytes[index] == 0) result->hash[index] = HASH_START;
  result->hash[index] = hash_bytes(result->hash[index], peer->payload, frame->length);
  result->bytes[index] += frame->length;
  struct frame window = {
      .type = kWindow, .stream = frame->stream, .aux = frame->aux, .value = frame->length};
  peer_send(peer, window, NULL);
}

static void take_error(struct peer* peer, struct result* result) {
  struct tlv_reader reader = {.next = peer->payload, .end = peer->payload + peer->frame.length};
  struct tlv tlv;
  result->error = (int)peer->frame.value;
  while (tlv_next(&reader, &tlv) == kTlvGot) {
    if (tlv.tag == kTagStage && tlv.length < sizeof result->stage) {
      memcpy(result->stage, tlv.value, tlv.length);
    }
  }
  result->ended = true;
}

void result_take(struct peer* peer, struct result* results) {
  const struct frame* frame = &peer->frame;
  struct result* result = &results[frame->stream];
  switch (frame->type) {
    case kStarted:
      CHECK(!result->started && frame->value > 0);
      result->started = true;
      break;
    case kData:
      take_data(peer, result);
      break;
    case kEof:
      CHECK(!result->eof[frame->aux - kAuxStdout]);
      result->eof[frame->aux - kAuxStdout] = true;
      break;
    case kExit:
      CHECK(result->started && !result->ended);
      result->exit_code = (int)frame->value;
      result->exit_signal = frame->aux;
      result->ended = true;
      break;
    case kError:
      take_error(peer, result);
      break;
    default:
      CHECK(frame->type == kWindow);
  }
}

bool results_collect(struct peer* peer, struct result* results, uint32_t count) {
  uint32_t ended = 0;
  while (ended < count) {
    if (!peer_read(peer, kPatienceMs)) return false;
    bool over = results[peer->frame.stream].ended;
    result_take(peer, results);
    if (!over && results[peer->frame.stream].ended) ended++;
  }
  return true;
}
