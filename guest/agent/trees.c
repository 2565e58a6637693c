// The kernel's own trees belong to one PID namespace, so each main process has its own: mounted by
// the first process in it, before or after the image is there.
#include "trees.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mounts.h"

// Linux 5.2; not in musl's headers.
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
enum { kCloneTree = 1 };

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

// A tmpfs or volume of the main process.
struct own_mount {
  uint32_t depth;
  const char* path;
  const struct container_tmpfs* tmpfs;  // NULL: a volume
  int tree;                             // what the image has at a volume, -1: it stays in place
};

static unsigned long flags_of(const struct container_tmpfs* tmpfs) {
  static const struct {
    uint32_t asked;
    unsigned long given;
  } kFlags[] = {
      {kTmpfsNoExec, MS_NOEXEC},
      {kTmpfsNoSuid, MS_NOSUID},
      {kTmpfsNoDev, MS_NODEV},
      {kTmpfsReadOnly, MS_RDONLY},
      {kTmpfsSync, MS_SYNCHRONOUS},
      {kTmpfsDirSync, MS_DIRSYNC},
      {kTmpfsNoAtime, MS_NOATIME},
      {kTmpfsNoDirAtime, MS_NODIRATIME},
      {kTmpfsStrictAtime, MS_STRICTATIME},
  };
  unsigned long flags = 0;
  for (size_t i = 0; i < sizeof kFlags / sizeof kFlags[0]; i++) {
    if (tmpfs->flags & kFlags[i].asked) flags |= kFlags[i].given;
  }
  return flags;
}

// As runc does it: the mode is that of the directory below unless the options, which come later,
// have one; where there was none it is the kernel's choice, 1777.
static bool mount_tmpfs(const struct container_tmpfs* tmpfs) {
  char options[PATH_MAX];
  struct stat status;
  if (stat(tmpfs->path, &status) < 0) {
    return mounts_make_path(tmpfs->path, 0755) &&
           mount("tmpfs", tmpfs->path, "tmpfs", flags_of(tmpfs), tmpfs->options) == 0;
  }
  unsigned mode = status.st_mode & 07777;
  int length = snprintf(options, sizeof options, "mode=%o,%s", mode, tmpfs->options);
  if (length >= (int)sizeof options) {
    errno = EINVAL;
    return false;
  }
  return mount("tmpfs", tmpfs->path, "tmpfs", flags_of(tmpfs), options) == 0;
}

// A volume keeps the content that the image has there, and stays writable below a read-only root,
// when it is a mount of its own. That is taken before a tmpfs can hide it.
static bool take_volume(struct own_mount* volume) {
  if (!mounts_make_path(volume->path, 0755)) return false;
  volume->tree = (int)syscall(SYS_open_tree, AT_FDCWD, volume->path, kCloneTree | O_CLOEXEC);
  return volume->tree >= 0;
}

static bool mount_volume(const struct own_mount* volume) {
  return mounts_make_path(volume->path, 0755) &&
         (volume->tree < 0 || mounts_move(volume->tree, volume->path));
}

static uint32_t depth_of(const char* path) {
  uint32_t depth = 0;
  for (; *path; path++) depth += path[0] == '/' && path[1] != '/' && path[1] != 0;
  return depth;
}

// Behind those that are as deep, so that the order of the request decides among them.
static void insert(struct own_mount* mounts, uint32_t count, struct own_mount mount) {
  uint32_t at = count;
  for (mount.depth = depth_of(mount.path); at > 0 && mounts[at - 1].depth > mount.depth; at--) {
    mounts[at] = mounts[at - 1];
  }
  mounts[at] = mount;
}

const char* trees_for_main(const struct container_spec* spec) {
  static struct own_mount mounts[2 * kMaxContainerMounts];
  uint32_t count = 0;
  bool read_only = image_only || (spec->flags & kContainerReadOnly);
  bool change = spec->volume_count > 0 || spec->tmpfs_count > 0 || !read_only;
  if (change && !set_root_flags(false)) return "mount:/";
  for (uint32_t i = 0; i < spec->volume_count; i++) {
    struct own_mount volume = {.path = spec->volumes[i], .tree = -1};
    if ((read_only || spec->tmpfs_count > 0) && !take_volume(&volume)) return "volume";
    insert(mounts, count++, volume);
  }
  for (uint32_t i = 0; i < spec->tmpfs_count; i++) {
    const struct container_tmpfs* tmpfs = &spec->tmpfs[i];
    insert(mounts, count++, (struct own_mount){.path = tmpfs->path, .tmpfs = tmpfs, .tree = -1});
  }
  for (uint32_t i = 0; i < count; i++) {
    const struct own_mount* mount = &mounts[i];
    if (mount->tmpfs && !mount_tmpfs(mount->tmpfs)) return "tmpfs";
    if (!mount->tmpfs && !mount_volume(mount)) return "volume";
  }
  return set_root_flags(read_only) ? NULL : "mount:/";
}
