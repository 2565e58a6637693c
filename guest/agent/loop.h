// The agent once it is connected: says HELLO, then serves frames until the VM ends.
#ifndef VMFORK_AGENT_LOOP_H
#define VMFORK_AGENT_LOOP_H

#include <stdbool.h>

// `is_init`: SHUTDOWN takes the machine down; else it only ends this process.
_Noreturn void loop_run(bool is_init);

#endif
