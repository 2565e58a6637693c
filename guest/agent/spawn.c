// vfork and execve. The child borrows the agent's memory until it executes the program: no page
// table is copied, and its failures are plain stores into `struct spawn`.
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const char kDefaultPath[] = "/usr/bin:/usr/sbin:/bin:/sbin";

static char found_path[PATH_MAX];

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
  spawn->error = error;
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
// disposition needs a reset, because the agent blocks signals and handles none.
static const char* prepare_child(const struct spawn* spawn) {
  for (int fd = 0; fd < 3; fd++) {
    if (dup2(spawn->fds[fd], fd) < 0) return "pipe";
  }
  if (setsid() < 0) return "fork";
  if (spawn->terminal && ioctl(0, TIOCSCTTY, 0) < 0) return "pty";
  if (!became_user(spawn)) return "user";
  if (spawn->cwd && chdir(spawn->cwd) < 0) return "chdir";
  return NULL;
}

_Noreturn static void run_child(struct spawn* spawn) {
  const char* stage = prepare_child(spawn);
  if (!stage) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(spawn->file, spawn->argv, spawn->envp);
    int error = errno;
    // A missing interpreter of a script that is there must not look like a missing command.
    stage = error == ENOENT && access(spawn->file, F_OK) < 0 ? "lookup" : "exec";
    errno = error;
  }
  spawn->stage = stage;
  spawn->error = errno;
  _exit(127);
}

pid_t spawn_start(struct spawn* spawn) {
  spawn->stage = NULL;
  if (!lookup(spawn)) return -1;
  pid_t pid = vfork();
  if (pid == 0) run_child(spawn);
  if (pid < 0) {
    spawn->stage = "fork";
    spawn->error = errno;
    return -1;
  }
  if (spawn->stage) {
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
    return -1;
  }
  return pid;
}
