// The container's file systems: what is mounted once, and what each main process adds.
#ifndef VMFORK_AGENT_MOUNTS_H
#define VMFORK_AGENT_MOUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "container.h"

struct rootfs_plan {
  const char* device;    // path of the block device that holds the image
  const char* type;      // of its file system; NULL: try those the guest knows
  uint32_t writable;     // kWritable*
  const char* scratch;   // kWritableDisk: path of a device with an empty ext4
  uint64_t upper_bytes;  // kWritableMemory: limit of what may be written, 0: half of the memory
};

// Mounts everything in new mount and IPC namespaces and comes back from them. Returns NULL, or the
// stage that failed with errno set; then nothing is left of it.
const char* mounts_build(const struct rootfs_plan* plan, struct container_space* space);
// For a main process that is in the namespaces and the first of its PID namespace.
const char* mounts_for_main(const struct container_spec* spec);
// mkdir -p; the path is absolute.
bool mounts_make_path(const char* path, uint32_t mode);

#endif
