// Where the container is and how a process gets into it. The agent keeps one descriptor of each
// namespace that outlives a main process (mounts, IPC), and a pidfd of the main process for the
// others (PID, host name, control groups).
#include "container.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/capability.h>

#include "caps.h"
#include "console.h"
#include "mounts.h"
#include "oom.h"
#include "runner.h"
#include "skeleton.h"
#include "trees.h"

// Linux 5.3.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static const char* prefix_path = "";
static bool with_kernel;
static bool mounted;
static struct container_space space = CONTAINER_NO_SPACE;
static int own_pid_ns = -1;
static bool elsewhere;  // the next child's PID namespace is not the agent's
static pid_t main_pid;
static int main_pidfd = -1;

void container_init(const char* prefix, bool kernel) {
  prefix_path = prefix;
  with_kernel = kernel;
}

const char* container_prefix(void) { return prefix_path; }
bool container_mounted(void) { return mounted; }
int container_root_fd(void) { return space.root; }
int container_pts_fd(void) { return space.pts; }
pid_t container_main(void) { return main_pid; }

static const char* fail(int error, const char* stage) {
  errno = error;
  return stage;
}

// Without a guard on devices, a process that can make device nodes can open the machine's disks.
static bool bound(uint64_t capabilities) {
  bool guarded = !with_kernel || oom_guards_devices();
  return caps_bound(guarded ? capabilities : capabilities & ~(UINT64_C(1) << CAP_MKNOD));
}

// The runner itself: everything that does not depend on the program.
static const char* enter_for_runner(const struct runner_kind* kind) {
  char at[PATH_MAX];
  skeleton_path(at, sizeof at, SKELETON_STAGE);
  if (setns(space.mount_ns, CLONE_NEWNS) < 0 || setns(space.ipc_ns, CLONE_NEWIPC) < 0) {
    return "container";
  }
  if (with_kernel && !oom_join()) return "limits";
  if (unshare(CLONE_NEWCGROUP) < 0) return "container";
  const char* stage = trees_mount(mounted ? "" : at, !kind->privileged);
  if (stage) return stage;
  return kind->privileged || bound(kind->capabilities) ? NULL : "capabilities";
}

static const char* prepare(const struct runner_kind* kind) {
  if (space.mount_ns < 0) {
    if (with_kernel) oom_init();
    const char* stage = skeleton_build(&space);
    if (stage) return stage;
  }
  return runner_prepare(kind, enter_for_runner);
}

const char* container_prepare(void) {
  static const struct runner_kind kUsual = {.capabilities = kDefaultCapabilities};
  return main_pid != 0 ? NULL : prepare(&kUsual);
}

const char* container_attach(const struct rootfs_plan* plan) {
  const char* stage = container_prepare();
  if (!stage) stage = mounts_attach(plan, &space);
  mounted = !stage;
  if (!stage) return NULL;
  int error = errno;
  container_close();
  errno = error;
  return stage;
}

bool container_close(void) {
  if (main_pid != 0) return false;
  runner_discard();
  space_close(&space);
  mounted = false;
  return true;
}

static const char* stage_main(const struct container_spec* spec) {
  if (main_pid != 0) return fail(EBUSY, "container");
  if (with_kernel && !oom_limits(spec)) return "limits";
  const struct runner_kind kind = {
      .privileged = spec->flags & kContainerPrivileged,
      .capabilities = spec->has_capabilities ? spec->capabilities : kDefaultCapabilities};
  return prepare(&kind);
}

const char* container_stage(const struct container_spec* spec) {
  if (!mounted) return fail(ENXIO, "container");
  if (spec->flags & kContainerTool) return NULL;
  if (spec->flags & kContainerMain) return stage_main(spec);
  if (main_pid == 0) return fail(ESRCH, "container");
  if (own_pid_ns < 0) own_pid_ns = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  if (own_pid_ns < 0 || setns(main_pidfd, CLONE_NEWPID) < 0) return "container";
  elsewhere = true;
  return NULL;
}

void container_leave(void) {
  if (elsewhere && setns(own_pid_ns, CLONE_NEWPID) < 0) fatal("cannot leave the container", errno);
  elsewhere = false;
}

// The image may have become the root since the runner entered the namespace.
static const char* enter_as_main(const struct container_spec* spec) {
  if (setns(space.mount_ns, CLONE_NEWNS) < 0 || unshare(CLONE_NEWUTS) < 0) return "container";
  return trees_for_main(spec);
}

const char* container_enter(const struct container_spec* spec) {
  if (spec->flags & kContainerMain) return enter_as_main(spec);
  if (spec->flags & kContainerTool) {
    return setns(space.mount_ns, CLONE_NEWNS) < 0 ? "container" : NULL;
  }
  if (with_kernel && !oom_join()) return "limits";
  const int kinds = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (setns(main_pidfd, kinds) < 0) return "container";
  uint64_t keep = spec->has_capabilities ? spec->capabilities : kDefaultCapabilities;
  return spec->flags & kContainerPrivileged || bound(keep) ? NULL : "capabilities";
}

void container_started(const struct container_spec* spec, pid_t pid) {
  if (!(spec->flags & kContainerMain)) return;
  main_pid = pid;
  main_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
}

void container_rename(void) {
  struct utsname names;
  if (main_pid == 0 || !with_kernel || uname(&names) < 0) return;
  int own = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
  if (own < 0) return;
  if (setns(main_pidfd, CLONE_NEWUTS) == 0) {
    sethostname(names.nodename, strlen(names.nodename));
    if (setns(own, CLONE_NEWUTS) < 0) fatal("cannot leave the container", errno);
  }
  close(own);
}

bool container_reaped(pid_t pid) {
  if (main_pid == 0 || pid != main_pid) return false;
  if (main_pidfd >= 0) close(main_pidfd);
  main_pidfd = -1;
  main_pid = 0;
  return true;
}
