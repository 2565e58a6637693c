// The image is a lower layer that nothing can write. Paths inside it are only used once it is the
// process's root, so that no link in it leads outside. /etc/hosts and its kind are files of the
// upper layer, which the agent has mapped: bind mounts over the image's would cost a clone more
// than the image itself.
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "identity.h"
#include "skeleton.h"
#include "trees.h"

// Linux 5.2; not in musl's headers.
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
enum { kMoveFromEmptyPath = 4, kMoveToFollowLinks = 16 };

bool mounts_make_path(const char* path, uint32_t mode) {
  char part[PATH_MAX];
  size_t length = strlen(path);
  if (length >= sizeof part) {
    errno = ENAMETOOLONG;
    return false;
  }
  memcpy(part, path, length + 1);
  for (char* slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    if (mkdir(part, 0755) < 0 && errno != EEXIST) return false;
    *slash = '/';
  }
  return mkdir(part, (mode_t)mode) == 0 || errno == EEXIST;
}

static bool write_at(int directory, const char* name, const char* bytes, uint32_t length) {
  int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  bool written = write(fd, bytes, length) == (ssize_t)length;
  close(fd);
  return written;
}

bool mounts_make_layer(const char* where) {
  char path[PATH_MAX];
  static const char* const kNames[] = {"work", "data", "data/run", "data/etc"};
  for (size_t i = 0; i < sizeof kNames / sizeof kNames[0]; i++) {
    snprintf(path, sizeof path, "%s/%s", where, kNames[i]);
    if (mkdir(path, 0755) < 0) return false;
  }
  snprintf(path, sizeof path, "%s/data/run/vmfork.sock", where);
  if (symlink("/dev/vmfork.sock", path) < 0) return false;
  snprintf(path, sizeof path, "%s/data/etc", where);
  int etc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (etc < 0) return false;
  bool made = identity_share(etc) && write_at(etc, "resolv.conf", "", 0);
  close(etc);
  return made;
}

static bool mount_lower(const struct rootfs_plan* plan) {
  static const char* const kTypes[] = {"erofs", "squashfs", "ext4"};
  if (plan->type) return mount(plan->device, "lower", plan->type, MS_RDONLY, NULL) == 0;
  for (size_t i = 0; i < sizeof kTypes / sizeof kTypes[0]; i++) {
    if (mount(plan->device, "lower", kTypes[i], MS_RDONLY, NULL) == 0) return true;
    if (errno != EINVAL && errno != ENODEV) return false;
  }
  return false;
}

// The merged directory takes its owner and mode from the upper layer's.
static bool copy_mode(const char* lower, const char* upper) {
  struct stat status;
  if (stat(lower, &status) < 0 || !S_ISDIR(status.st_mode)) return true;
  if (status.st_uid == 0 && status.st_gid == 0 && (status.st_mode & 07777) == 0755) return true;
  return chown(upper, status.st_uid, status.st_gid) == 0 &&
         chmod(upper, status.st_mode & 07777) == 0;
}

static bool prepare_upper(const struct rootfs_plan* plan) {
  if (plan->writable == kWritableDisk) {
    if (mkdir("upper/disk", 0755) < 0 || mount(plan->scratch, "upper/disk", "ext4", 0, NULL) < 0) {
      return false;
    }
    return mounts_make_layer("upper/disk");
  }
  if (plan->upper_bytes == 0) return true;
  char options[32];
  snprintf(options, sizeof options, "size=%llu", (unsigned long long)plan->upper_bytes);
  return mount(NULL, "upper", NULL, MS_REMOUNT, options) == 0;
}

static bool write_resolv_conf(const struct rootfs_plan* plan, const char* upper) {
  char path[64];
  if (!plan->resolv_conf) return true;
  snprintf(path, sizeof path, "%s/data/etc/resolv.conf", upper);
  return write_at(AT_FDCWD, path, plan->resolv_conf, plan->resolv_conf_length);
}

// What is written is thrown away with the machine: a disk for it need not be synchronised.
static const char* mount_overlay(const struct rootfs_plan* plan) {
  bool disk = plan->writable == kWritableDisk;
  const char* upper = disk ? "upper/disk" : "upper";
  char data[64], options[160];
  if (!prepare_upper(plan) || !write_resolv_conf(plan, upper)) return "mount:upper";
  snprintf(data, sizeof data, "%s/data", upper);
  if (!copy_mode("lower", data)) return "mount:upper";
  snprintf(data, sizeof data, "%s/data/etc", upper);
  if (!copy_mode("lower/etc", data)) return "mount:upper";
  snprintf(options, sizeof options, "lowerdir=lower,upperdir=%s/data,workdir=%s/work%s", upper,
           upper, disk ? ",volatile" : "");
  return mount("overlay", "root", "overlay", 0, options) == 0 ? NULL : "mount:overlay";
}

bool mounts_move(int from, const char* to) {
  const unsigned flags = kMoveFromEmptyPath | kMoveToFollowLinks;
  return syscall(SYS_move_mount, from, "", AT_FDCWD, to, flags) == 0;
}

static bool move_tree(int from, const char* to) {
  if (mounts_move(from, to)) return true;
  return errno == ENOENT && mkdir(to, 0755) == 0 && mounts_move(from, to);
}

static const char* enter_root(const struct container_space* space, int proc) {
  if (chdir("root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
      chdir("/") < 0) {
    return "mount:move";
  }
  if (!move_tree(space->dev, "/dev")) return "mount:/dev";
  if (!move_tree(space->sys, "/sys")) return "mount:/sys";
  return move_tree(proc, "/proc") ? NULL : "mount:/proc";
}

static const char* attach(const struct rootfs_plan* plan, struct container_space* space) {
  char base[PATH_MAX];
  skeleton_path(base, sizeof base, SKELETON_BASE);
  if (!space_enter(space) || chdir(base) < 0) return "mount:namespace";
  if (!mount_lower(plan)) return "mount:image";
  const char* stage = mount_overlay(plan);
  if (stage) return stage;
  int proc = open("upper/stage/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (proc < 0) return "mount:/proc";
  stage = enter_root(space, proc);
  int error = errno;
  close(proc);
  errno = error;
  if (stage) return stage;
  space->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  return space->root >= 0 && trees_reset(plan->writable == kWritableNone) ? NULL : "mount:/";
}

const char* mounts_attach(const struct rootfs_plan* plan, struct container_space* space) {
  const char* stage = attach(plan, space);
  int error = errno;
  if (!space_leave(space) && !stage) {
    stage = "mount:namespace";
    error = errno;
  }
  errno = error;
  return stage;
}
