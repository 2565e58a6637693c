// Capabilities are taken from the bounding set: execve then gives root what is left of it, and
// another user nothing (capabilities(7), "Transformation of capabilities during execve()"), which
// is what Docker's containers have.
#include "caps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

bool caps_limits(const struct container_spec* spec) {
  for (uint32_t i = 0; i < spec->rlimit_count; i++) {
    if (setrlimit((int)spec->rlimits[i].resource, &spec->rlimits[i].limit) < 0) return false;
  }
  if (spec->has_umask) umask((mode_t)spec->umask);
  if (!spec->has_oom_score_adj) return true;
  char text[16];
  int length = snprintf(text, sizeof text, "%d", spec->oom_score_adj);
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool written = write(fd, text, (size_t)length) == length;
  close(fd);
  return written;
}

bool caps_bound(uint64_t keep) {
  for (unsigned long capability = 0; capability < 64; capability++) {
    if (keep >> capability & 1) continue;
    // The first number that the kernel does not know ends the list.
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) return errno == EINVAL;
  }
  return true;
}

const char* caps_drop(const struct container_spec* spec, const struct account* account) {
  if (spec->flags & kContainerNoNewPrivs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    return "capabilities";
  }
  // The bare calls: libc's would try to change every thread of the process it thinks it is.
  if (syscall(SYS_setgroups, account->group_count, account->groups) < 0 ||
      syscall(SYS_setresgid, account->gid, account->gid, account->gid) < 0 ||
      syscall(SYS_setresuid, account->uid, account->uid, account->uid) < 0) {
    return "user";
  }
  return NULL;
}
