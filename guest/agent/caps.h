// Privileges of a command of the container.
#ifndef VMFORK_AGENT_CAPS_H
#define VMFORK_AGENT_CAPS_H

#include <stdbool.h>

#include "container.h"
#include "users.h"

// Resource limits, umask, the kernel's preference when memory runs out. False with errno set.
bool caps_limits(const struct container_spec* spec);
// Gives up what the command shall not have and becomes its user; the last step before execve.
// Returns NULL or the stage that failed, with errno set.
const char* caps_drop(const struct container_spec* spec, const struct account* account);

#endif
