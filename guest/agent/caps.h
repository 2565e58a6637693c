// Privileges of a command of the container.
#ifndef VMFORK_AGENT_CAPS_H
#define VMFORK_AGENT_CAPS_H

#include <stdbool.h>

#include "container.h"
#include "users.h"

// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
// sys_chroot, mknod, audit_write, setfcap: the set that Docker documents as its default.
static const uint64_t kDefaultCapabilities = 0xa80425fb;

// No program that this process executes will have more. False with errno set.
bool caps_bound(uint64_t keep);
// Resource limits, umask, the kernel's preference when memory runs out. False with errno set.
bool caps_limits(const struct container_spec* spec);
// Becomes the command's user; the last step before execve.
// Returns NULL or the stage that failed, with errno set.
const char* caps_drop(const struct container_spec* spec, const struct account* account);

#endif
