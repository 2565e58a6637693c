// The container's control group: its limits and devices, and what the kernel killed for want of
// memory.
#ifndef VMFORK_AGENT_OOM_H
#define VMFORK_AGENT_OOM_H

#include <stdbool.h>
#include <stdint.h>

#include "container.h"

// Makes the group, once; a kernel without control groups goes without.
void oom_init(void);
// Sets the limits for a main process. False with errno set when one that was asked for failed.
bool oom_limits(const struct container_spec* spec);
// Whether only privileged containers can open other devices than Docker's default ones.
bool oom_guards_devices(void);
// Moves the calling process into the group.
bool oom_join(void);
// How many processes of the group the kernel has killed since oom_init.
uint32_t oom_kills(void);
// The same without asking the kernel, unless the event loop saw a change since.
uint32_t oom_kills_before(void);
// The event loop saw a change of the group's memory events.
void oom_changed(void);
// True once after each change.
bool oom_take_change(void);

#endif
