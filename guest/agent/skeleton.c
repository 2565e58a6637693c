// Everything lies in a mount namespace of its own: a failure half-way, or the end of the container,
// leaves nothing behind, because the namespace goes with its last descriptor. /dev and /sys are
// mounted aside and moved into the root later: a move costs a fraction of a mount.
#include "skeleton.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "identity.h"
#include "mounts.h"

enum { kCommonFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC };

struct staged_mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
};

// The options are those of Docker's default containers.
static const struct staged_mount kStaged[] = {
    {"tmpfs", "dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"},
    {"devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", "dev/shm", kCommonFlags, "mode=1777,size=65536k"},
    {"mqueue", "dev/mqueue", kCommonFlags, NULL},
    {"sysfs", "sys", kCommonFlags | MS_RDONLY, NULL},
};

struct device_node {
  const char* path;
  uint32_t minor;
  uint32_t major;
};

static const struct device_node kNodes[] = {
    {"dev/null", 3, 1},   {"dev/zero", 5, 1},    {"dev/full", 7, 1},
    {"dev/random", 8, 1}, {"dev/urandom", 9, 1}, {"dev/tty", 0, 5},
};

static const char* const kLinks[][2] = {
    {"pts/ptmx", "dev/ptmx"},          {"/proc/self/fd", "dev/fd"},
    {"/proc/self/fd/0", "dev/stdin"},  {"/proc/self/fd/1", "dev/stdout"},
    {"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"},
};

void skeleton_path(char* path, size_t size, const char* below) {
  snprintf(path, size, "%s%s", container_prefix(), below);
}

static bool make_devices(void) {
  for (size_t i = 0; i < sizeof kNodes / sizeof kNodes[0]; i++) {
    dev_t number = makedev(kNodes[i].major, kNodes[i].minor);
    if (mknod(kNodes[i].path, S_IFCHR | 0666, number) < 0) return false;
  }
  for (size_t i = 0; i < sizeof kLinks / sizeof kLinks[0]; i++) {
    if (symlink(kLinks[i][0], kLinks[i][1]) < 0) return false;
  }
  return true;
}

// Where a process asks to be forked; a kernel or agent without it is fine.
static void share_fork_point(void) {
  char socket[PATH_MAX];
  skeleton_path(socket, sizeof socket, "/run/vmfork/fork-point.sock");
  int fd = open("dev/vmfork.sock", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return;
  close(fd);
  if (mount(socket, "dev/vmfork.sock", NULL, MS_BIND, NULL) < 0) unlink("dev/vmfork.sock");
}

static const char* stage_mounts(void) {
  for (size_t i = 0; i < sizeof kStaged / sizeof kStaged[0]; i++) {
    const struct staged_mount* staged = &kStaged[i];
    if (mkdir(staged->target, 0755) < 0 ||
        mount(staged->type, staged->target, staged->type, staged->flags, staged->options) < 0) {
      return staged->target;
    }
  }
  share_fork_point();
  return mkdir("proc", 0755) == 0 && make_devices() ? NULL : "dev";
}

static bool make_base(void) {
  static const char* const kNames[] = {"lower", "upper", "root"};
  char base[PATH_MAX];
  skeleton_path(base, sizeof base, SKELETON_BASE);
  if (!mounts_make_path(base, 0700) || chdir(base) < 0) return false;
  for (size_t i = 0; i < sizeof kNames / sizeof kNames[0]; i++) {
    if (mkdir(kNames[i], 0700) < 0 && errno != EEXIST) return false;
  }
  return true;
}

// What is written lies here; with a disk for it, only the stage does.
static bool make_upper(void) {
  return mount("tmpfs", "upper", "tmpfs", 0, "mode=0755") == 0 && mounts_make_layer("upper") &&
         mkdir("upper/stage", 0755) == 0 && chdir("upper/stage") == 0;
}

static int open_namespace(const char* name) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/ns/%s", name);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static int open_path(const char* path) { return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC); }

static const char* build(struct container_space* space) {
  if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0 ||
      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
    return "mount:namespace";
  }
  space->mount_ns = open_namespace("mnt");
  space->ipc_ns = open_namespace("ipc");
  if (space->mount_ns < 0 || space->ipc_ns < 0) return "mount:namespace";
  if (!make_base()) return "mount:prepare";
  if (!make_upper()) return "mount:upper";
  const char* stage = stage_mounts();
  if (stage) return stage;
  space->dev = open_path("dev");
  space->sys = open_path("sys");
  space->pts = open_path("dev/pts");
  return space->dev < 0 || space->sys < 0 || space->pts < 0 ? "mount:prepare" : NULL;
}

bool space_enter(const struct container_space* space) {
  return setns(space->mount_ns, CLONE_NEWNS) == 0;
}

bool space_leave(const struct container_space* space) {
  return setns(space->own_mount_ns, CLONE_NEWNS) == 0;
}

void space_close(struct container_space* space) {
  const int fds[] = {space->own_mount_ns, space->mount_ns, space->ipc_ns, space->root,
                     space->dev,          space->sys,      space->pts};
  for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
    if (fds[i] >= 0) close(fds[i]);
  }
  *space = (struct container_space)CONTAINER_NO_SPACE;
}

const char* skeleton_build(struct container_space* space) {
  *space = (struct container_space)CONTAINER_NO_SPACE;
  space->own_mount_ns = open_namespace("mnt");
  int own_ipc_ns = open_namespace("ipc");
  mode_t mask = umask(0);
  const char* stage = space->own_mount_ns < 0 || own_ipc_ns < 0 ? "mount:namespace" : build(space);
  int error = errno;
  umask(mask);
  bool back = space_leave(space) && setns(own_ipc_ns, CLONE_NEWIPC) == 0;
  if (!stage && !back) {
    stage = "mount:namespace";
    error = errno;
  }
  if (own_ipc_ns >= 0) close(own_ipc_ns);
  if (stage) space_close(space);
  errno = error;
  return stage;
}
