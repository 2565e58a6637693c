// Finding a program and starting it with as few kernel instructions as possible.
#ifndef VMFORK_AGENT_SPAWN_H
#define VMFORK_AGENT_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "container.h"

// Elements that can be put in front of argv: the reaper takes them.
enum { kSpareArguments = 2 };

struct spawn {
  char** argv;
  char** envp;      // with room for one more
  const char* cwd;  // NULL: /
  uint32_t uid;
  uint32_t gid;
  bool terminal;                           // fds[0] becomes the controlling terminal
  int fds[3];                              // what the program gets as 0, 1, 2; all of them >= 3
  const char* file;                        // what argv[0] was found to be
  const struct container_spec* container;  // NULL: outside
  int tool_fd;                             // a program of the agent's own side
  // Filled when starting fails.
  const char* stage;
  int error;
  const char* text;  // NULL: what the errno says
};

// Returns the process id, or -1 with stage and error set.
pid_t spawn_start(struct spawn* spawn);

#endif
