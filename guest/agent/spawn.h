// Finding a program and starting it with as few kernel instructions as possible.
#ifndef VMFORK_AGENT_SPAWN_H
#define VMFORK_AGENT_SPAWN_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct spawn {
  char** argv;
  char** envp;
  const char* cwd;  // NULL: /
  uint32_t uid;
  uint32_t gid;
  bool terminal;     // fds[0] becomes the controlling terminal
  int fds[3];        // what the program gets as 0, 1, 2; all of them >= 3
  const char* file;  // what argv[0] was found to be
  // Filled when starting fails.
  const char* stage;
  int error;
};

// Returns the process id, or -1 with stage and error set.
pid_t spawn_start(struct spawn* spawn);

#endif
