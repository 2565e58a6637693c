// The payload of EXEC as C strings.
#ifndef VMFORK_AGENT_EXEC_REQUEST_H
#define VMFORK_AGENT_EXEC_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "spawn.h"

enum { kDefaultPtySize = 24 << 16 | 80 };

// Fills argv, envp, cwd, uid, gid. Returns NULL, or a sentence about what is wrong.
const char* exec_request_parse(uint8_t* payload, uint32_t length, struct spawn* spawn,
                               uint32_t* pty_size);

#endif
