// Bytes to and from commands, under the credit of docs/protocol.md.
#ifndef VMFORK_AGENT_FLOW_H
#define VMFORK_AGENT_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "streams.h"

// False: the host sent more than it had credit for.
bool stdin_take(struct stream* stream, const uint8_t* bytes, uint32_t length);
void stdin_end(struct stream* stream);
void stdin_pump(struct stream* stream);
// Reads at most one piece from each output and queues it. True: there is more to read now.
bool outputs_pump(struct stream* stream);
// The process ended and descendants hold its outputs: what lies in them now is the rest.
void outputs_finish(struct stream* stream);
bool outputs_open(const struct stream* stream);
// Returns what the host may send again once it is worth a frame.
void window_return(struct stream* stream);

#endif
