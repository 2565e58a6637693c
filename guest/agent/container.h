// The container: one root filesystem, mounted in namespaces of its own, and the processes in it
// (docs/protocol.md, "Containers").
#ifndef VMFORK_AGENT_CONTAINER_H
#define VMFORK_AGENT_CONTAINER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "frames.h"

enum { kMaxRlimits = 16, kMaxContainerMounts = 32 };

struct container_rlimit {
  uint32_t resource;
  struct rlimit limit;
};

struct container_tmpfs {
  uint32_t flags;  // kTmpfs*
  const char* path;
  const char* options;
};

// What the container tags of an EXEC ask for.
struct container_spec {
  bool present;    // false: the command runs outside
  uint32_t flags;  // kContainer*
  const char* user;
  bool has_capabilities;
  uint64_t capabilities;
  bool has_umask;
  uint32_t umask;
  bool has_oom_score_adj;
  int32_t oom_score_adj;
  uint64_t memory_max;  // 0: all but a reserve
  uint64_t pids_max;    // 0: no limit
  uint32_t cpu_weight;  // 0: the kernel's default
  uint32_t rlimit_count;
  uint32_t tmpfs_count;
  uint32_t volume_count;
  struct container_rlimit rlimits[kMaxRlimits];
  struct container_tmpfs tmpfs[kMaxContainerMounts];
  const char* volumes[kMaxContainerMounts];
};

// Below the directory `prefix` lie the agent's own etc and run. Without `kernel` the control groups
// are left alone.
void container_init(const char* prefix, bool kernel);
const char* container_prefix(void);

// Descriptors of the container's namespaces and of mounts in them.
struct container_space {
  int own_mount_ns;
  int mount_ns;
  int ipc_ns;
  int root;  // O_PATH, as the ones below
  int dev;
  int sys;
  int pts;
};
#define CONTAINER_NO_SPACE {-1, -1, -1, -1, -1, -1, -1}

struct rootfs_plan;

// Makes what a container needs before its image and its program are known; what is there already
// stays. Returns NULL, or the stage that failed with errno set.
const char* container_prepare(void);
// Mounts the image; prepares first.
const char* container_attach(const struct rootfs_plan* plan);
// False while a main process runs.
bool container_close(void);
bool container_mounted(void);
// O_PATH descriptors of the container, -1 without one.
int container_root_fd(void);
int container_pts_fd(void);

// Puts the agent into the state in which the next child belongs to the container; NULL, or the
// stage that failed with errno set. container_leave undoes it, whatever came between. For a main
// process there is a runner afterwards.
const char* container_stage(const struct container_spec* spec);
void container_leave(void);
// For the child itself: moves it into the container.
const char* container_enter(const struct container_spec* spec);

void container_started(const struct container_spec* spec, pid_t pid);
// A child was reaped. True: it was the main process.
bool container_reaped(pid_t pid);
pid_t container_main(void);
// After a fork: a main process of the template gets the machine's new host name.
void container_rename(void);

#endif
