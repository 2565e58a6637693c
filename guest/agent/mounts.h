// The image joins the skeleton and becomes the container's root.
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
  const char* resolv_conf;
  uint32_t resolv_conf_length;
};

// Returns NULL, or the stage that failed with errno set; the space is of no use then.
const char* mounts_attach(const struct rootfs_plan* plan, struct container_space* space);
// The directories of an upper layer below `where`, with the machine's own files in them.
bool mounts_make_layer(const char* where);
// mkdir -p; the path is absolute.
bool mounts_make_path(const char* path, uint32_t mode);
// Puts a mount that has no place yet, or another one, to a path.
bool mounts_move(int from, const char* to);

#endif
