// System calls only, and few: on some hosts the guest kernel is interpreted and each costs visibly.
#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "console.h"

struct mount_point {
  const char* source;
  const char* target;
  const char* type;
  unsigned long flags;
  const char* options;
  bool optional;  // a kernel or machine without it is fine
  bool make;      // the directory lies on a filesystem mounted just before
};

static const struct mount_point kMounts[] = {
    {"devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755", false, false},
    {"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, false, false},
    {"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, false, false},
    {"devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", false,
     true},
    {"tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", false, true},
    {"tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755", false, false},
    {"tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", false, false},
    {"cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, true, false},
    {"/dev/vda", "/usr", "erofs", MS_RDONLY, NULL, true, false},
};

static void mount_one(const struct mount_point* point) {
  if (point->make) mkdir(point->target, 0755);
  if (mount(point->source, point->target, point->type, point->flags, point->options) == 0) return;
  // The kernel may have mounted devtmpfs itself.
  if (errno == EBUSY || (point->optional && (errno == ENOENT || errno == ENODEV))) return;
  console_say(point->target, errno);
}

// The kernel opens /dev/console for init only when the initramfs has the node.
static void open_standard_descriptors(void) {
  if (fcntl(STDERR_FILENO, F_GETFD) >= 0) return;
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0) fd = open("/dev/null", O_RDWR);
  if (fd < 0) return;
  for (int to = 0; to < 3; to++) {
    if (fd != to) dup2(fd, to);
  }
  if (fd > 2) close(fd);
}

void boot_mounts(void) {
  umask(022);
  mount_one(&kMounts[0]);
  open_standard_descriptors();
  for (size_t i = 1; i < sizeof kMounts / sizeof kMounts[0]; i++) mount_one(&kMounts[i]);
  symlink("/proc/self/fd", "/dev/fd");
  symlink("/proc/self/fd/0", "/dev/stdin");
  symlink("/proc/self/fd/1", "/dev/stdout");
  symlink("/proc/self/fd/2", "/dev/stderr");
  // Commands keep the usual soft limit and may raise it.
  struct rlimit files = {.rlim_cur = 1024, .rlim_max = 524288};
  setrlimit(RLIMIT_NOFILE, &files);
}

// An initramfs that brings its own keeps it.
static void write_default(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return;
  size_t length = strlen(text);
  if (write(fd, text, length) != (ssize_t)length) console_say(path, errno);
  close(fd);
}

void boot_files(void) {
  write_default("/etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\n"
                "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
                "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
  write_default("/etc/group", "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n");
  write_default("/etc/resolv.conf", "");
}

void boot_bind_boot_id(void) {
  if (mount("/run/vmfork/boot_id", "/proc/sys/kernel/random/boot_id", NULL, MS_BIND, NULL) < 0) {
    console_say("cannot bind boot_id", errno);
  }
}

// The kernel gives lo its addresses by itself when it comes up (net/ipv4/devinet.c).
void boot_loopback(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  struct ifreq request = {.ifr_name = "lo"};
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) console_say("cannot bring lo up", errno);
  close(fd);
}
