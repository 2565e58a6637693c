// Where the container is and how a process gets into it. The agent keeps one descriptor of each
// namespace that outlives a main process (mounts, IPC), and a pidfd of the main process for the
// others (PID, host name, control groups).
#include "container.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "console.h"
#include "mounts.h"
#include "oom.h"

// Linux 5.3.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const char* prefix_path = "";
static bool with_kernel;
static bool mounted;
static struct container_space space = {.mount_ns = -1, .ipc_ns = -1, .root = -1, .pts = -1};
static int own_pid_ns = -1;
static bool elsewhere;  // the next child's PID namespace is not the agent's
static pid_t main_pid;
static int main_pidfd = -1;

void container_init(const char* prefix, bool kernel) {
  prefix_path = prefix;
  with_kernel = kernel;
}

const char* container_prefix(void) { return prefix_path; }

void container_open(const struct container_space* made) {
  space = *made;
  mounted = true;
  if (with_kernel) oom_init();
}

bool container_close(void) {
  if (main_pid != 0) return false;
  close(space.mount_ns);
  close(space.ipc_ns);
  close(space.root);
  close(space.pts);
  space = (struct container_space){.mount_ns = -1, .ipc_ns = -1, .root = -1, .pts = -1};
  mounted = false;
  return true;
}

bool container_mounted(void) { return mounted; }
int container_root_fd(void) { return space.root; }
int container_pts_fd(void) { return space.pts; }
pid_t container_main(void) { return main_pid; }

static const char* fail(int error, const char* stage) {
  errno = error;
  return stage;
}

static const char* stage_main(const struct container_spec* spec) {
  if (main_pid != 0) return fail(EBUSY, "container");
  if (with_kernel && !oom_limits(spec)) return "limits";
  if (unshare(CLONE_NEWPID) < 0) return "container";
  elsewhere = true;
  return NULL;
}

const char* container_stage(const struct container_spec* spec) {
  if (!mounted) return fail(ENXIO, "container");
  if (spec->flags & kContainerTool) return NULL;
  if (own_pid_ns < 0) own_pid_ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  if (own_pid_ns < 0) return "container";
  if (spec->flags & kContainerMain) return stage_main(spec);
  if (main_pid == 0) return fail(ESRCH, "container");
  if (setns(main_pidfd, CLONE_NEWPID) < 0) return "container";
  elsewhere = true;
  return NULL;
}

void container_leave(void) {
  if (elsewhere && setns(own_pid_ns, CLONE_NEWPID) < 0) fatal("cannot leave the container", errno);
  elsewhere = false;
}

static const char* enter_as_main(const struct container_spec* spec) {
  if (unshare(CLONE_NEWUTS | CLONE_NEWCGROUP) < 0) return "container";
  return mounts_for_main(spec);
}

const char* container_enter(const struct container_spec* spec) {
  bool tool = spec->flags & kContainerTool;
  if (!tool && with_kernel && !oom_join()) return "limits";
  if (tool || spec->flags & kContainerMain) {
    if (setns(space.mount_ns, CLONE_NEWNS) < 0 || setns(space.ipc_ns, CLONE_NEWIPC) < 0) {
      return "container";
    }
    return tool ? NULL : enter_as_main(spec);
  }
  const int kinds = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  return setns(main_pidfd, kinds) < 0 ? "container" : NULL;
}

void container_started(const struct container_spec* spec, pid_t pid) {
  if (!(spec->flags & kContainerMain)) return;
  main_pid = pid;
  main_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
}

bool container_reaped(pid_t pid) {
  if (main_pid == 0 || pid != main_pid) return false;
  if (main_pidfd >= 0) close(main_pidfd);
  main_pidfd = -1;
  main_pid = 0;
  return true;
}
