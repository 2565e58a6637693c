// EXEC and what follows it: the life of a command from its frame to its EXIT.
#ifndef VMFORK_AGENT_COMMAND_H
#define VMFORK_AGENT_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"
#include "streams.h"

// The strings of an EXEC are made C strings in place, so `payload` is changed.
void command_start(const struct frame* frame, uint8_t* payload);
void command_resize(struct stream* stream, uint32_t size);
void command_signal(struct stream* stream, const struct frame* frame);

// Gives the main process of the container, started before the fork, a stream of this machine.
void command_adopt_main(const struct frame* frame);
// Tells the host of processes that the kernel killed for want of memory.
void command_report_oom(void);

// Collects every ended child, ours or adopted.
void command_reap(void);
// True while children may exist.
bool command_children(void);
// Moves what can be moved. True: there is more to do now.
bool command_pump(struct stream* stream);
// Milliseconds until the first grace ends, -1 when none runs.
int command_grace_ms(void);

#endif
