// Tunnels: a stream of the host joined to a socket of the guest.
#ifndef VMFORK_AGENT_TUNNEL_H
#define VMFORK_AGENT_TUNNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"
#include "streams.h"

// DIAL: connects to a TCP port or a Unix socket; answers CONNECTED or ERROR.
void tunnel_dial(const struct frame* frame, uint8_t* payload);
// Makes a stream of a connected socket that the event loop watches already. Takes the descriptor
// over; false, with ERROR sent, when that cannot be done.
bool tunnel_adopt(uint32_t id, int fd);
// The host gives the tunnel up: the socket is reset.
void tunnel_reset(struct stream* stream);
// Moves what can be moved. True: there is more to do now.
bool tunnel_pump(struct stream* stream);

#endif
