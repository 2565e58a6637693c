// The image is a lower layer that nothing can write. Everything is mounted in a mount namespace of
// its own: a failure half-way, or the end of the container, leaves nothing behind, because the
// namespace goes with its last descriptor. Paths inside the image are only used once it is the
// process's root, so that no link in it leads outside.
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

// Linux 5.2; not in musl's headers.
#ifndef SYS_open_tree
#define SYS_open_tree 428
#define SYS_move_mount 429
#endif
enum { kOpenTreeClone = 1, kMoveFromEmptyPath = 4, kMoveToFollowLinks = 16 };

enum { kCommonFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC };

struct inner_mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
};

// The options are those of Docker's default containers.
static const struct inner_mount kInner[] = {
    {"tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", "/dev/shm", kCommonFlags, "mode=1777,size=65536k"},
    {"mqueue", "/dev/mqueue", kCommonFlags, NULL},
    {"sysfs", "/sys", kCommonFlags | MS_RDONLY, NULL},
};

struct device_node {
  const char* path;
  uint32_t major;
  uint32_t minor;
};

static const struct device_node kNodes[] = {
    {"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0},
};

static const char* const kLinks[][2] = {
    {"pts/ptmx", "/dev/ptmx"},          {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},  {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"}, {"/proc/kcore", "/dev/core"},
};

// The agent's own files that the container sees, as they change.
struct shared_file {
  const char* source;  // below the agent's prefix
  const char* target;
  bool optional;  // bound only where both exist
};

static const struct shared_file kShared[] = {
    {"/etc/hostname", "/etc/hostname", false},
    {"/etc/hosts", "/etc/hosts", false},
    {"/etc/resolv.conf", "/etc/resolv.conf", false},
    {"/etc/machine-id", "/etc/machine-id", false},
    {"/run/vmfork/fork-point.sock", "/run/vmfork.sock", true},
};
enum { kSharedCount = 5 };

static bool image_only;      // nothing of this file system may be written
static bool root_read_only;  // what the root is now

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

static bool mount_lower(const struct rootfs_plan* plan, const char* target) {
  static const char* const kTypes[] = {"erofs", "squashfs", "ext4"};
  if (plan->type) return mount(plan->device, target, plan->type, MS_RDONLY, NULL) == 0;
  for (size_t i = 0; i < sizeof kTypes / sizeof kTypes[0]; i++) {
    if (mount(plan->device, target, kTypes[i], MS_RDONLY, NULL) == 0) return true;
    if (errno != EINVAL && errno != ENODEV) return false;
  }
  return false;
}

static bool mount_upper(const struct rootfs_plan* plan, const char* target) {
  if (plan->writable == kWritableDisk) return mount(plan->scratch, target, "ext4", 0, NULL) == 0;
  char options[64] = "mode=0755";
  if (plan->upper_bytes > 0) {
    snprintf(options, sizeof options, "mode=0755,size=%llu", (unsigned long long)plan->upper_bytes);
  }
  return mount("tmpfs", target, "tmpfs", 0, options) == 0;
}

// The merged root takes its owner and mode from the upper layer's.
static bool make_layers(void) {
  struct stat status;
  return stat("lower", &status) == 0 && mkdir("upper/data", 0755) == 0 &&
         mkdir("upper/work", 0755) == 0 && chown("upper/data", status.st_uid, status.st_gid) == 0 &&
         chmod("upper/data", status.st_mode & 07777) == 0;
}

// What is written is thrown away with the machine: it need not be synchronised ("volatile").
static bool mount_overlay(void) {
  static const char kOptions[] = "lowerdir=lower,upperdir=upper/data,workdir=upper/work,volatile";
  return mount("overlay", "root", "overlay", 0, kOptions) == 0;
}

static const char* mount_layers(const struct rootfs_plan* plan) {
  char base[PATH_MAX];
  static const char* const kNames[] = {"lower", "upper", "root"};
  snprintf(base, sizeof base, "%s/run/vmfork/rootfs", container_prefix());
  if (!mounts_make_path(base, 0700) || chdir(base) < 0) return "mount:prepare";
  for (size_t i = 0; i < 3; i++) {
    if (mkdir(kNames[i], 0700) < 0 && errno != EEXIST) return "mount:prepare";
  }
  if (!mount_lower(plan, "lower")) return "mount:image";
  if (!mount_upper(plan, "upper")) return "mount:upper";
  if (!make_layers()) return "mount:upper";
  return mount_overlay() ? NULL : "mount:overlay";
}

// A mount of one file that is attached nowhere yet.
static int detached(const char* source) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s%s", container_prefix(), source);
  return (int)syscall(SYS_open_tree, AT_FDCWD, path, kOpenTreeClone | O_CLOEXEC);
}

// A link that leads nowhere is replaced: images often point /etc/resolv.conf into an empty /run.
static bool make_target(const char* path) {
  struct stat status;
  if (stat(path, &status) == 0) return !S_ISDIR(status.st_mode);
  if (lstat(path, &status) == 0) unlink(path);
  mkdir("/etc", 0755);
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  close(fd);
  return true;
}

static bool attach_file(int fd, const struct shared_file* file) {
  if (fd < 0) return file->optional;
  if (!make_target(file->target)) return file->optional;
  return syscall(SYS_move_mount, fd, "", AT_FDCWD, file->target,
                 kMoveFromEmptyPath | kMoveToFollowLinks) == 0;
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

static const char* mount_inner(void) {
  for (size_t i = 0; i < sizeof kInner / sizeof kInner[0]; i++) {
    const struct inner_mount* inner = &kInner[i];
    if (mkdir(inner->target, 0755) < 0 && errno != EEXIST) return inner->target;
    if (mount(inner->type, inner->target, inner->type, inner->flags, inner->options) < 0) {
      return inner->target;
    }
  }
  mkdir("/proc", 0755);
  return make_devices() ? NULL : "/dev";
}

static const char* enter_root(void) {
  return chdir("root") == 0 && mount(".", "/", NULL, MS_MOVE, NULL) == 0 && chroot(".") == 0 &&
                 chdir("/") == 0
             ? NULL
             : "mount:move";
}

static bool set_root_flags(bool read_only) {
  unsigned long flags = MS_REMOUNT | MS_BIND | (read_only ? MS_RDONLY : 0);
  if (read_only == root_read_only) return true;
  if (mount(NULL, "/", NULL, flags, NULL) < 0) return false;
  root_read_only = read_only;
  return true;
}

static const char* build_inside(const struct rootfs_plan* plan) {
  int files[kSharedCount];
  const char* stage = mount_layers(plan);
  if (stage) return stage;
  for (int i = 0; i < kSharedCount; i++) files[i] = detached(kShared[i].source);
  stage = enter_root();
  if (!stage) stage = mount_inner();
  for (int i = 0; i < kSharedCount; i++) {
    if (!stage && !attach_file(files[i], &kShared[i])) stage = kShared[i].target;
    int error = errno;
    if (files[i] >= 0) close(files[i]);
    errno = error;
  }
  if (!stage && image_only && !set_root_flags(true)) stage = "mount:/";
  return stage;
}

static int open_namespace(const char* name) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/ns/%s", name);
  return open(path, O_RDONLY | O_CLOEXEC);
}

static const char* build_space(const struct rootfs_plan* plan, struct container_space* space) {
  if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0 ||
      mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
    return "mount:namespace";
  }
  space->mount_ns = open_namespace("mnt");
  space->ipc_ns = open_namespace("ipc");
  if (space->mount_ns < 0 || space->ipc_ns < 0) return "mount:namespace";
  const char* stage = build_inside(plan);
  if (stage) return stage;
  space->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  space->pts = open("/dev/pts", O_PATH | O_DIRECTORY | O_CLOEXEC);
  return space->root < 0 || space->pts < 0 ? "mount:namespace" : NULL;
}

static void close_space(struct container_space* space) {
  const int fds[] = {space->mount_ns, space->ipc_ns, space->root, space->pts};
  for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
    if (fds[i] >= 0) close(fds[i]);
  }
}

const char* mounts_build(const struct rootfs_plan* plan, struct container_space* space) {
  root_read_only = false;
  image_only = plan->writable == kWritableNone;
  *space = (struct container_space){.mount_ns = -1, .ipc_ns = -1, .root = -1, .pts = -1};
  int own_mount_ns = open_namespace("mnt");
  int own_ipc_ns = open_namespace("ipc");
  mode_t mask = umask(0);
  const char* stage =
      own_mount_ns < 0 || own_ipc_ns < 0 ? "mount:namespace" : build_space(plan, space);
  int error = errno;
  umask(mask);
  bool back = setns(own_mount_ns, CLONE_NEWNS) == 0 && setns(own_ipc_ns, CLONE_NEWIPC) == 0 &&
              chdir("/") == 0;
  if (!stage && !back) {
    stage = "mount:namespace";
    error = errno;
  }
  if (own_mount_ns >= 0) close(own_mount_ns);
  if (own_ipc_ns >= 0) close(own_ipc_ns);
  if (stage) close_space(space);
  errno = error;
  return stage;
}

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

static bool mask(const char* path) {
  struct stat status;
  if (stat(path, &status) < 0) return errno == ENOENT;
  if (S_ISDIR(status.st_mode)) {
    return mount("tmpfs", path, "tmpfs", kCommonFlags | MS_RDONLY, "size=0") == 0;
  }
  return mount("/dev/null", path, NULL, MS_BIND, NULL) == 0;
}

static bool make_read_only(const char* path) {
  if (mount(path, path, NULL, MS_BIND, NULL) < 0) return errno == ENOENT;
  return mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kCommonFlags, NULL) == 0;
}

static bool hide_kernel(void) {
  for (size_t i = 0; i < sizeof kMasked / sizeof kMasked[0]; i++) {
    if (!mask(kMasked[i])) return false;
  }
  for (size_t i = 0; i < sizeof kReadOnly / sizeof kReadOnly[0]; i++) {
    if (!make_read_only(kReadOnly[i])) return false;
  }
  return true;
}

// An earlier main process of this file system left its own behind.
static bool remount_kernel_trees(void) {
  umount2("/proc", MNT_DETACH);
  umount2("/sys/fs/cgroup", MNT_DETACH);
  if (mount("proc", "/proc", "proc", kCommonFlags, NULL) < 0) return false;
  // A kernel without control groups has no such directory.
  if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", kCommonFlags | MS_RDONLY, NULL) == 0) {
    return true;
  }
  return errno == ENOENT || errno == ENODEV || errno == EBUSY;
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

static const char* mount_asked(const struct container_spec* spec) {
  bool read_only = image_only || (spec->flags & kContainerReadOnly);
  for (uint32_t i = 0; i < spec->volume_count; i++) {
    if (!make_volume(spec->volumes[i], read_only)) return "volume";
  }
  for (uint32_t i = 0; i < spec->tmpfs_count; i++) {
    if (!mount_tmpfs(&spec->tmpfs[i])) return "tmpfs";
  }
  return NULL;
}

const char* mounts_for_main(const struct container_spec* spec) {
  if (!set_root_flags(false)) return "mount:/";
  if (!remount_kernel_trees()) return "mount:/proc";
  if (!(spec->flags & kContainerPrivileged) && !hide_kernel()) return "mount:mask";
  const char* stage = mount_asked(spec);
  if (stage) return stage;
  bool read_only = image_only || (spec->flags & kContainerReadOnly);
  return set_root_flags(read_only) ? NULL : "mount:/";
}
