// Which device files the processes of a control group may open.
#ifndef VMFORK_AGENT_DEVICES_H
#define VMFORK_AGENT_DEVICES_H

#include <stdbool.h>

// Lets the group (a descriptor of its directory) open Docker's default devices only, or all again.
// False with errno set when the kernel cannot.
bool devices_restrict(int group, bool restricted);

#endif
