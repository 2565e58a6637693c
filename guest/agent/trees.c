// The kernel's own trees belong to one PID namespace, so each main process has its own: mounted by
// the first process in it, before or after the image is there.
#include "trees.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounts.h"

enum { kCommonFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC };

static bool image_only;      // nothing of this file system may be written
static bool root_read_only;  // what the root is now

// Docker's lists of what a container may not see, and not write, of the kernel's own trees.
static const char* const kMasked[] = {
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
};
static const char* const kReadOnly[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
};

static void below(char* path, const char* at, const char* name) {
  snprintf(path, PATH_MAX, "%s%s", at, name);
}

static bool mask(const char* at, const char* name) {
  char path[PATH_MAX], null[PATH_MAX];
  struct stat status;
  below(path, at, name);
  if (stat(path, &status) < 0) return errno == ENOENT;
  if (S_ISDIR(status.st_mode)) {
    return mount("tmpfs", path, "tmpfs", kCommonFlags | MS_RDONLY, "size=0") == 0;
  }
  below(null, at, "/dev/null");
  return mount(null, path, NULL, MS_BIND, NULL) == 0;
}

static bool make_read_only(const char* at, const char* name) {
  char path[PATH_MAX];
  below(path, at, name);
  if (mount(path, path, NULL, MS_BIND, NULL) < 0) return errno == ENOENT;
  return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kCommonFlags, NULL) == 0;
}

static bool hide_kernel(const char* at) {
  for (size_t i = 0; i < sizeof kMasked / sizeof kMasked[0]; i++) {
    if (!mask(at, kMasked[i])) return false;
  }
  for (size_t i = 0; i < sizeof kReadOnly / sizeof kReadOnly[0]; i++) {
    if (!make_read_only(at, kReadOnly[i])) return false;
  }
  return true;
}

// The C library's start-up code looks here. What is found stays found when this process becomes the
// program: the kernel makes the entries of a process when they are first wanted.
static void warm_up(const char* at) {
  char path[PATH_MAX], program[PATH_MAX];
  below(path, at, "/proc/self/exe");
  if (readlink(path, program, sizeof program) < 0) return;
}

// An earlier main process of this file system left its own behind.
static const char* mount_both(const char* at) {
  char path[PATH_MAX];
  below(path, at, "/proc");
  umount2(path, MNT_DETACH);
  if (mount("proc", path, "proc", kCommonFlags, NULL) < 0) return "mount:/proc";
  warm_up(at);
  below(path, at, "/sys/fs/cgroup");
  umount2(path, MNT_DETACH);
  if (mount("cgroup2", path, "cgroup2", kCommonFlags | MS_RDONLY, NULL) == 0) return NULL;
  // A kernel without control groups has no such directory.
  return errno == ENOENT || errno == ENODEV || errno == EBUSY ? NULL : "mount:/sys/fs/cgroup";
}

const char* trees_mount(const char* at, bool hide) {
  const char* stage = mount_both(at);
  if (stage) return stage;
  return !hide || hide_kernel(at) ? NULL : "mount:mask";
}

static bool set_root_flags(bool read_only) {
  unsigned long flags = MS_REMOUNT | MS_BIND | (read_only ? MS_RDONLY : 0);
  if (read_only == root_read_only) return true;
  if (mount(NULL, "/", NULL, flags, NULL) < 0) return false;
  root_read_only = read_only;
  return true;
}

bool trees_reset(bool only) {
  image_only = only;
  root_read_only = false;
  return set_root_flags(only);
}

static bool mount_tmpfs(const struct container_tmpfs* tmpfs) {
  unsigned long flags = (tmpfs->flags & kTmpfsNoExec ? MS_NOEXEC : 0) |
                        (tmpfs->flags & kTmpfsNoSuid ? MS_NOSUID : 0) |
                        (tmpfs->flags & kTmpfsNoDev ? MS_NODEV : 0) |
                        (tmpfs->flags & kTmpfsReadOnly ? MS_RDONLY : 0);
  return mounts_make_path(tmpfs->path, 0755) &&
         mount("tmpfs", tmpfs->path, "tmpfs", flags, tmpfs->options) == 0;
}

// A volume stays writable below a read-only root: it is a mount of its own, with the content that
// the image has there.
static bool make_volume(const char* path, bool read_only_root) {
  if (!mounts_make_path(path, 0755)) return false;
  return !read_only_root || mount(path, path, NULL, MS_BIND, NULL) == 0;
}

const char* trees_for_main(const struct container_spec* spec) {
  bool read_only = image_only || (spec->flags & kContainerReadOnly);
  bool change = spec->volume_count > 0 || spec->tmpfs_count > 0 || !read_only;
  if (change && !set_root_flags(false)) return "mount:/";
  for (uint32_t i = 0; i < spec->volume_count; i++) {
    if (!make_volume(spec->volumes[i], read_only)) return "volume";
  }
  for (uint32_t i = 0; i < spec->tmpfs_count; i++) {
    if (!mount_tmpfs(&spec->tmpfs[i])) return "tmpfs";
  }
  return set_root_flags(read_only) ? NULL : "mount:/";
}
