// The table of open streams: commands and file transfers, each in a slot of a fixed array.
#ifndef VMFORK_AGENT_STREAMS_H
#define VMFORK_AGENT_STREAMS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

// Three descriptors a command at most, so that a full table stays below the usual limit of 1,024.
enum { kMaxStreams = 256 };

enum stream_kind { kFree = 0, kCommand, kReadingFile, kWritingFile, kTunnel, kMounting };

// A command's output. `ready`: there may be something to read (epoll is edge-triggered).
struct output {
  int fd;
  uint32_t credit;
  bool ready;
  bool final;  // the grace is over: only `final_bytes` more are passed on
  uint32_t final_bytes;
};

// A command's input. What the program does not take yet waits in `buffer`, which the credit bounds.
struct input {
  int fd;
  uint32_t credit;  // what the host may still send
  uint32_t owed;    // passed on, not yet returned to the host as WINDOW
  uint8_t* buffer;  // ring of kWindowBytes, mapped when first needed
  uint32_t head;
  uint32_t buffered;
  bool writable;
  bool watched;
  bool ending;    // the host said EOF
  bool mid_line;  // the last byte passed on was not a newline
};

struct stream {
  uint8_t kind;
  bool detached;  // belongs to the machine this one was forked from: never sends
  bool pty;
  bool exited;
  bool connecting;   // a tunnel whose socket is not connected yet
  int socket_error;  // what broke a tunnel, 0 when both ways ended in order
  uint32_t id;
  pid_t pid;  // 0 once reaped
  uint16_t exit_signal;
  uint8_t exit_code;
  uint64_t max_rss_kib;
  bool contained;
  uint32_t oom_kills;     // of the container, when this command began; after its end, since then
  uint32_t oom_told;      // how many of them the host knows of
  uint64_t grace_end_ns;  // 0: not running
  struct output outputs[2];
  struct input input;
  int file_fd;
  uint64_t file_bytes;  // passed on so far
  uint64_t file_limit;
};

// NULL when no open, attached stream has this number.
struct stream* stream_find(uint32_t id);
struct stream* stream_find_pid(pid_t pid);
// NULL when the table is full.
struct stream* stream_open(uint32_t id, enum stream_kind kind);
// Closes its descriptors and forgets it.
void stream_close(struct stream* stream);
// Gives the streams of the machine we were forked from over to be drained in silence.
void streams_detach(void);
uint32_t streams_count(void);

// Slots in use lie below streams_end(); kind tells which are.
struct stream* stream_at(uint32_t slot);
uint32_t stream_slot(const struct stream* stream);
uint32_t streams_end(void);

#endif
