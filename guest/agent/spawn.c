// vfork and execve. The child borrows the agent's memory until it executes the program: no page
// table is copied, and its failures are plain stores into `struct spawn`.
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "caps.h"
#include "mounts.h"
#include "reaper.h"
#include "runner.h"
#include "users.h"

static const char kDefaultPath[] = "/usr/bin:/usr/sbin:/bin:/sbin";

static char found_path[PATH_MAX];
static char home_variable[PATH_MAX + sizeof "HOME="];

static const char* find_path(char** envp) {
  for (; *envp; envp++) {
    if (strncmp(*envp, "PATH=", 5) == 0) return *envp + 5;
  }
  return kDefaultPath;
}

// Joins parts into found_path; false when they do not fit.
static bool join(const char* parts[], const size_t lengths[], int count) {
  size_t at = 0;
  for (int i = 0; i < count; i++) {
    if (lengths[i] >= sizeof found_path - at) return false;
    memcpy(found_path + at, parts[i], lengths[i]);
    at += lengths[i];
  }
  found_path[at] = 0;
  return true;
}

// Looks at one directory of PATH. Relative ones mean the command's working directory, not ours.
static int try_directory(const struct spawn* spawn, const char* directory, size_t length) {
  const char* name = spawn->argv[0];
  bool relative = length == 0 || directory[0] != '/';
  const char* cwd = spawn->cwd ? spawn->cwd : "/";
  const char* parts[] = {cwd, "/", directory, "/", name};
  const size_t lengths[] = {relative ? strlen(cwd) : 0, relative, length, 1, strlen(name)};
  if (!join(parts, lengths, 5)) return ENAMETOOLONG;
  struct stat status;
  if (stat(found_path, &status) < 0) return errno;
  return S_ISREG(status.st_mode) && (status.st_mode & 0111) ? 0 : EACCES;
}

// execvp's rules: a name with a slash is a path; else the first executable file in PATH wins, and
// one that may not be executed is worth saying.
static bool lookup(struct spawn* spawn) {
  spawn->file = spawn->argv[0];
  if (strchr(spawn->file, '/')) return true;
  int error = ENOENT;
  const char* path = spawn->file[0] ? find_path(spawn->envp) : NULL;
  spawn->file = found_path;
  while (path) {
    const char* end = strchrnul(path, ':');
    int result = try_directory(spawn, path, (size_t)(end - path));
    if (result == 0) return true;
    if (result == EACCES) error = EACCES;
    path = *end ? end + 1 : NULL;
  }
  spawn->stage = "lookup";
  spawn->error = errno = error;
  return false;
}

static bool became_user(const struct spawn* spawn) {
  if (spawn->uid == 0 && spawn->gid == 0) return true;
  // The bare calls: libc's would try to change every thread of the process it thinks it is.
  return syscall(SYS_setgroups, 0, NULL) == 0 &&
         syscall(SYS_setresgid, spawn->gid, spawn->gid, spawn->gid) == 0 &&
         syscall(SYS_setresuid, spawn->uid, spawn->uid, spawn->uid) == 0;
}

// Only 0, 1 and 2 reach the program: every other descriptor of the agent is close-on-exec. No
// disposition needs a reset: execve() undoes the agent's only handler.
static const char* take_descriptors(const struct spawn* spawn) {
  for (int fd = 0; fd < 3; fd++) {
    if (dup2(spawn->fds[fd], fd) < 0) return "pipe";
  }
  if (setsid() < 0) return "fork";
  return spawn->terminal && ioctl(0, TIOCSCTTY, 0) < 0 ? "pty" : NULL;
}

static const char* prepare_child(const struct spawn* spawn) {
  const char* stage = take_descriptors(spawn);
  if (stage) return stage;
  if (!became_user(spawn)) return "user";
  return spawn->cwd && chdir(spawn->cwd) < 0 ? "chdir" : NULL;
}

// The request has left room for one more variable.
static void set_home(const struct spawn* spawn, const char* home) {
  char** end = spawn->envp;
  for (; *end; end++) {
    if (strncmp(*end, "HOME=", 5) == 0) return;
  }
  snprintf(home_variable, sizeof home_variable, "HOME=%s", home);
  end[0] = home_variable;
  end[1] = NULL;
}

static const char* enter_directory(const struct spawn* spawn) {
  if (!spawn->cwd) return NULL;
  // A missing working directory is made, as Docker does; where that fails, chdir says why.
  mounts_make_path(spawn->cwd, 0755);
  return chdir(spawn->cwd) < 0 ? "chdir" : NULL;
}

static const char* prepare_contained(struct spawn* spawn) {
  static struct account account;
  const struct container_spec* spec = spawn->container;
  const char* stage = take_descriptors(spawn);
  if (!stage) stage = container_enter(spec);
  if (stage) return stage;
  if (!caps_limits(spec)) return "limits";
  if (!(spec->flags & kContainerTool)) {
    spawn->text = users_resolve(spec->user, &account);
    errno = ENOENT;
    if (spawn->text) return "user";
    set_home(spawn, account.home);
  }
  stage = enter_directory(spawn);
  if (!stage && !(spec->flags & kContainerTool)) stage = caps_drop(spec, &account);
  if (stage || spec->flags & kContainerTool) return stage;
  return lookup(spawn) ? NULL : spawn->stage;
}

static void execute_fd(int fd, char** argv, char** envp) {
  syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
}

static void execute(struct spawn* spawn) {
  uint32_t flags = spawn->container ? spawn->container->flags : 0;
  if (flags & kContainerTool) {
    execute_fd(spawn->tool_fd, spawn->argv, spawn->envp);
  } else if (flags & kContainerInit) {
    // The request has left room for two more arguments in front.
    char** argv = spawn->argv - kSpareArguments;
    argv[0] = (char*)REAPER_NAME;
    argv[1] = (char*)spawn->file;
    execute_fd(spawn->tool_fd, argv, spawn->envp);
  } else {
    execve(spawn->file, spawn->argv, spawn->envp);
  }
}

_Noreturn static void run_child(struct spawn* spawn) {
  const char* stage = spawn->container ? prepare_contained(spawn) : prepare_child(spawn);
  if (!stage) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execute(spawn);
    int error = errno;
    // A missing interpreter of a script that is there must not look like a missing command.
    stage = error == ENOENT && access(spawn->file, F_OK) < 0 ? "lookup" : "exec";
    errno = error;
  }
  spawn->stage = stage;
  spawn->error = errno;
  _exit(127);
}

// Programs of the agent's own side are opened here: the child has left it when it needs them.
static const char* open_tool(struct spawn* spawn) {
  uint32_t flags = spawn->container->flags;
  const char* path = flags & kContainerTool ? "/usr/bin/busybox" : "/proc/self/exe";
  spawn->tool_fd = -1;
  if (!(flags & (kContainerTool | kContainerInit))) return NULL;
  spawn->tool_fd = open(path, O_PATH | O_CLOEXEC);
  return spawn->tool_fd < 0 ? "lookup" : NULL;
}

static void run_in_runner(void* spawn) { run_child(spawn); }

// A stage of its own says more than how it ended.
static pid_t start_runner(struct spawn* spawn) {
  static char text[64];
  int status = 0;
  pid_t pid = runner_start(run_in_runner, spawn, &status);
  if (pid < 0 && !spawn->stage && WIFSIGNALED(status)) {
    snprintf(text, sizeof text, "signal %d ended it before its program began", WTERMSIG(status));
    spawn->text = text;
  }
  return pid;
}

static pid_t fork_contained(struct spawn* spawn) {
  if (spawn->container->flags & kContainerMain) return start_runner(spawn);
  pid_t pid = vfork();
  if (pid == 0) run_child(spawn);
  return pid;
}

static pid_t start_contained(struct spawn* spawn) {
  pid_t pid = -1;
  spawn->file = spawn->argv[0];
  spawn->stage = open_tool(spawn);
  if (!spawn->stage) spawn->stage = container_stage(spawn->container);
  spawn->error = errno;
  if (!spawn->stage) {
    pid = fork_contained(spawn);
    if (pid < 0 && !spawn->stage) {
      spawn->stage = "fork";
      spawn->error = errno;
    }
  }
  container_leave();
  if (spawn->tool_fd >= 0) close(spawn->tool_fd);
  return pid;
}

static pid_t start_plain(struct spawn* spawn) {
  if (!lookup(spawn)) return -1;
  pid_t pid = vfork();
  if (pid == 0) run_child(spawn);
  if (pid < 0) {
    spawn->stage = "fork";
    spawn->error = errno;
  }
  return pid;
}

pid_t spawn_start(struct spawn* spawn) {
  spawn->stage = NULL;
  spawn->text = NULL;
  pid_t pid = spawn->container ? start_contained(spawn) : start_plain(spawn);
  if (pid < 0) return -1;
  if (spawn->stage) {
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
    return -1;
  }
  if (spawn->container) container_started(spawn->container, pid);
  return pid;
}
