// Fork points: processes that wait, on a Unix socket, to be forked (docs/fork-points.md).
#ifndef VMFORK_AGENT_FORKPOINT_H
#define VMFORK_AGENT_FORKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"

// Listens at `path`; says so on the console and goes on without when that fails.
void forkpoint_init(const char* path);
// A descriptor watched under this number is readable.
void forkpoint_ready(uint32_t number);
// Takes what has come and tells the host who waits. True: there is more to do now.
bool forkpoint_pump(void);
// RELEASE: gives a waiting process its payload and makes a tunnel of its socket.
void forkpoint_release(const struct frame* frame, uint8_t* payload);

#endif
