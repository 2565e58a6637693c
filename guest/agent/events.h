// The agent's one epoll: who is watched, and what a wake-up means for the streams.
#ifndef VMFORK_AGENT_EVENTS_H
#define VMFORK_AGENT_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "streams.h"

enum watch { kWatchStdout, kWatchStderr, kWatchStdin, kWatchPty, kWatchSocket = kWatchPty };

// Blocks all signals; SIGCHLD comes as an event from then on.
void events_init(void);
bool events_watch(int fd, const struct stream* stream, enum watch what);
// For a descriptor that is watched already.
bool events_rewatch(int fd, const struct stream* stream, enum watch what);
// Has forkpoint_ready(number) called whenever `fd` is readable.
bool events_watch_fork_point(int fd, uint32_t number);
// Has rootfs_devices_changed() called whenever a line is added to the kernel's log.
bool events_watch_devices(int fd);
// Has oom_changed() called whenever the control group's memory events change.
bool events_watch_oom(int fd);
void events_forget_link(void);
// Sleeps up to `timeout_ms` (-1: for ever) and marks what became ready. False: nothing did.
bool events_wait(int timeout_ms, bool* child_ended);
uint64_t now_ns(void);

#endif
