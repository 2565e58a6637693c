// A control group of version 2 (Documentation/admin-guide/cgroup-v2.rst). Its memory limit lies
// below what the machine has, so that the kernel's search for a victim stays inside the container
// and memory.events counts it.
#include "oom.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "console.h"
#include "devices.h"
#include "events.h"

#define GROUPS "/sys/fs/cgroup"
#define GROUP GROUPS "/container"

// For the agent, the kernel's own structures, and the allocator's low-water marks.
enum { kReserveMiB = 8, kReserveShare = 16 };

static int processes_fd = -1;
static int events_fd = -1;
static int group_fd = -1;
static bool guards_devices;
static bool guarding;
static bool changed;
static bool limited;
static uint64_t memory_max;  // as written
static uint32_t known_kills;

static bool write_file(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  size_t length = strlen(text);
  bool written = write(fd, text, length) == (ssize_t)length;
  int error = errno;
  close(fd);
  errno = error;
  return written;
}

static bool write_number(const char* path, uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)value);
  return write_file(path, text);
}

static uint64_t default_memory_max(void) {
  struct sysinfo info;
  if (sysinfo(&info) < 0) return 0;
  uint64_t total = (uint64_t)info.totalram * info.mem_unit;
  uint64_t reserve = ((uint64_t)kReserveMiB << 20) + total / kReserveShare;
  return total > 2 * reserve ? total - reserve : total / 2;
}

// Writing the same again would not be free: each file of a control group is opened by its path.
static bool limit_memory(uint64_t bytes) {
  uint64_t wanted = bytes > 0 ? bytes : default_memory_max();
  if (wanted == memory_max) return true;
  if (!write_number(GROUP "/memory.max", wanted)) return false;
  memory_max = wanted;
  return true;
}

void oom_init(void) {
  if (processes_fd >= 0) return;
  if (access(GROUPS "/cgroup.procs", F_OK) < 0) return;
  bool made = write_file(GROUPS "/cgroup.subtree_control", "+memory +pids +cpu") &&
              (mkdir(GROUP, 0755) == 0 || errno == EEXIST);
  if (!made) {
    console_say("cannot make the container's control group", errno);
    return;
  }
  processes_fd = open(GROUP "/cgroup.procs", O_WRONLY | O_CLOEXEC);
  events_fd = open(GROUP "/memory.events", O_RDONLY | O_CLOEXEC);
  group_fd = open(GROUP, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  guards_devices = guarding = devices_restrict(group_fd, true);
  if (!guards_devices) console_say("cannot guard devices: containers get no CAP_MKNOD", errno);
  // The kernel tells of changes only after a first read.
  oom_kills();
  if (events_fd >= 0) events_watch_oom(events_fd);
  // What most containers have is written here, in the template.
  limit_memory(0);
}

bool oom_guards_devices(void) { return guards_devices; }

static bool guard_devices(bool guard) {
  if (!guards_devices || guard == guarding) return true;
  if (!devices_restrict(group_fd, guard)) return false;
  guarding = guard;
  return true;
}

bool oom_limits(const struct container_spec* spec) {
  if (processes_fd < 0) return spec->memory_max == 0 && spec->pids_max == 0 && !spec->cpu_weight;
  if (!guard_devices(!(spec->flags & kContainerPrivileged))) return false;
  if (!limit_memory(spec->memory_max)) return false;
  bool reset = limited;
  limited = spec->pids_max > 0 || spec->cpu_weight > 0;
  if (!limited && !reset) return true;
  bool pids = spec->pids_max > 0 ? write_number(GROUP "/pids.max", spec->pids_max)
                                 : write_file(GROUP "/pids.max", "max");
  return pids && write_number(GROUP "/cpu.weight", spec->cpu_weight > 0 ? spec->cpu_weight : 100);
}

bool oom_join(void) { return processes_fd < 0 || pwrite(processes_fd, "0", 1, 0) == 1; }

uint32_t oom_kills(void) {
  char text[256];
  ssize_t length = events_fd >= 0 ? pread(events_fd, text, sizeof text - 1, 0) : -1;
  if (length <= 0) return 0;
  text[length] = 0;
  const char* found = strstr(text, "oom_kill ");
  known_kills = found ? (uint32_t)strtoul(found + strlen("oom_kill "), NULL, 10) : 0;
  return known_kills;
}

uint32_t oom_kills_before(void) { return changed ? oom_kills() : known_kills; }

void oom_changed(void) { changed = true; }

bool oom_take_change(void) {
  bool was = changed;
  changed = false;
  return was;
}
