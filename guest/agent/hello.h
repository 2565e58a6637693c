// HELLO and RESUMED: what the agent tells about itself and its machine.
#ifndef VMFORK_AGENT_HELLO_H
#define VMFORK_AGENT_HELLO_H

#include <stdint.h>

void hello_send(void);
void resumed_send(uint32_t value);

#endif
