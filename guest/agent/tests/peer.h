// The host's end for tests: the agent's real loop runs in a child process behind a socketpair.
#ifndef VMFORK_AGENT_TESTS_PEER_H
#define VMFORK_AGENT_TESTS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"

struct peer {
  int fd;
  pid_t pid;
  char root[64];  // holds etc/ and run/ of the agent
  struct frame frame;
  uint8_t payload[kFrameMaxPayloadBytes];
};

// What a command did, collected up to its EXIT or ERROR.
struct result {
  bool started;
  bool ended;
  int exit_code;
  int exit_signal;
  int error;
  char stage[16];
  bool eof[2];
  size_t bytes[2];
  uint64_t hash[2];   // FNV-1a of the output
  char head[2][256];  // its first bytes, NUL-terminated
};

// Starts an agent and takes its HELLO.
struct peer* peer_start(void);
// Expects the agent to be alive, ends it by SHUTDOWN, checks that it exited with 0.
void peer_stop(struct peer* peer);
// For an agent that must have ended by itself: its exit status, -1 when it did not end in time.
int peer_wait_end(struct peer* peer);

void peer_send(struct peer* peer, struct frame frame, const void* payload);
void peer_send_raw(struct peer* peer, const void* bytes, size_t length);
// Reads the next frame into peer->frame; false after `timeout_ms` or at the end of the stream.
bool peer_read(struct peer* peer, int timeout_ms);
bool peer_expect(struct peer* peer, uint8_t type, uint32_t stream);

// Puts an EXEC payload together from argv, ended by NULL; PATH is the test's own.
uint32_t exec_payload(uint8_t* payload, size_t capacity, const char* const* argv);
void peer_exec(struct peer* peer, uint32_t stream, uint16_t aux, const char* const* argv);
// Takes one frame that belongs to `results[stream]`, returning credit for what it held.
void result_take(struct peer* peer, struct result* results);
// Runs until `count` of the streams 1.. have ended; false when the agent falls silent.
bool results_collect(struct peer* peer, struct result* results, uint32_t count);

uint64_t hash_bytes(uint64_t hash, const uint8_t* bytes, size_t length);
enum { kPatienceMs = 10000 };
#define HASH_START 0xcbf29ce484222325u

#endif
