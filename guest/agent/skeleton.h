// What a container needs of file systems before its image is known: made once, in the template, so
// that a clone only mounts the image itself.
#ifndef VMFORK_AGENT_SKELETON_H
#define VMFORK_AGENT_SKELETON_H

#include <stdbool.h>

#include "container.h"

// Where it is built, below the agent's prefix; everything in it is only seen in the container's
// mount namespace.
#define SKELETON_BASE "/run/vmfork/rootfs"
#define SKELETON_STAGE SKELETON_BASE "/upper/stage"

// Makes the namespaces with the skeleton in them. Returns NULL, or the stage that failed with errno
// set; then nothing is left of it.
const char* skeleton_build(struct container_space* space);
// Moves the agent into the container's mount namespace, and back; false with errno set.
bool space_enter(const struct container_space* space);
bool space_leave(const struct container_space* space);
void space_close(struct container_space* space);
// Fills `path` with a place below the agent's prefix.
void skeleton_path(char* path, size_t size, const char* below);

#endif
