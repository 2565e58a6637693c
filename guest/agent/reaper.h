// The tiny init process that a container may have before its main program.
#ifndef VMFORK_AGENT_REAPER_H
#define VMFORK_AGENT_REAPER_H

#include <stdbool.h>

// The agent's program under this name is the reaper: name, path of the program, its argv.
#define REAPER_NAME "vmfork-init"

bool reaper_called(char* const* argv);
_Noreturn void reaper_run(char** argv);

#endif
