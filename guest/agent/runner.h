// The process that will be a container's main one: it waits in its namespaces, so that starting the
// program takes no more than becoming it.
#ifndef VMFORK_AGENT_RUNNER_H
#define VMFORK_AGENT_RUNNER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct runner_kind {
  bool privileged;        // nothing of the kernel's trees is hidden
  uint64_t capabilities;  // what its program may have at most
};

// Ensures that one of this kind waits. `enter` moves it into the namespaces and prepares them; it
// returns NULL or the stage that failed, with errno set, as this function does.
const char* runner_prepare(const struct runner_kind* kind,
                           const char* (*enter)(const struct runner_kind* kind));
// Has the waiting one call `run(argument)`, which executes a program or ends the process; both
// share the agent's memory until then. Returns its process id when that has happened; -1, errno and
// its wait status when it ended without a program.
pid_t runner_start(void (*run)(void* argument), void* argument, int* status);
void runner_discard(void);

#endif
