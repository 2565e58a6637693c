// File systems of one main process: the kernel's own trees, and what its specification asks for.
#ifndef VMFORK_AGENT_TREES_H
#define VMFORK_AGENT_TREES_H

#include <stdbool.h>

#include "container.h"

// For the first process of a PID namespace: mounts proc and cgroup2 below `at` (empty: the root)
// and, with `hide`, covers what Docker covers. Returns NULL, or the stage that failed with errno
// set.
const char* trees_mount(const char* at, bool hide);
// A new file system: its root is writable until a main process asks otherwise, unless `image_only`.
bool trees_reset(bool image_only);
// For a main process in its root: volumes, tmpfs, and whether the root can be written.
const char* trees_for_main(const struct container_spec* spec);

#endif
