// MOUNT_ROOTFS and UNMOUNT_ROOTFS: when the disk is there, the container's file systems follow.
#ifndef VMFORK_AGENT_ROOTFS_H
#define VMFORK_AGENT_ROOTFS_H

#include <stdint.h>

#include "frames.h"
#include "streams.h"

void rootfs_mount_start(const struct frame* frame, uint8_t* payload);
// PREPARE: does in the template what its clones need not do.
void rootfs_prepare(const struct frame* frame);
void rootfs_unmount(const struct frame* frame);
// Mounts when the disk has come.
void rootfs_pump(struct stream* stream);
// The host gives the mount up.
void rootfs_give_up(struct stream* stream);
// The event loop saw that something happened to the machine's devices.
void rootfs_devices_changed(void);

#endif
