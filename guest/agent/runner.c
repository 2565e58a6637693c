// The runner shares the agent's memory, as a child of vfork does, but has a stack of its own. It
// works only while the agent waits for it: they take turns. Its descriptors are the agent's until
// it starts, so that it holds none open that the agent has closed.
#include "runner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(start, length) ((void)0)
#endif

// Linux 5.3; not in musl's headers.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { kStackBytes = 128 << 10 };

static struct {
  pid_t pid;  // 0: none waits
  int pidfd;
  int orders[2];   // the agent writes, the runner reads
  int answers[2];  // the runner writes, the agent reads
  struct runner_kind kind;
  const char* (*enter)(const struct runner_kind* kind);
  const char* stage;
  int error;
  void (*run)(void* argument);
  void* argument;
} runner;

static uint8_t* stack;

static int runner_main(void* unused) {
  char byte = 0;
  (void)unused;
  // It shares the pipes of an agent that ended and would wait for ever; the program is on its own.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  runner.stage = runner.enter(&runner.kind);
  runner.error = errno;
  if (runner.stage || write(runner.answers[1], &byte, 1) != 1) _exit(1);
  if (read(runner.orders[0], &byte, 1) != 1) _exit(0);
  // From here on its descriptors are its own; the end of the copy of answers[1] is the exec.
  if (unshare(CLONE_FILES) < 0 || write(runner.answers[1], &byte, 1) != 1) _exit(1);
  prctl(PR_SET_PDEATHSIG, 0);
  runner.run(runner.argument);
  _exit(127);
}

static void close_both(int* fds) {
  for (int i = 0; i < 2; i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}

static void close_all(void) {
  close_both(runner.orders);
  close_both(runner.answers);
  if (runner.pidfd >= 0) close(runner.pidfd);
  runner.pidfd = -1;
  runner.pid = 0;
}

// A child without a signal at its end is none that wait() sees, until it executes a program.
static void bury(pid_t pid) {
  while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
}

// False when it ended instead of answering.
static bool answered(void) {
  char byte;
  struct pollfd ends[2] = {{.fd = runner.answers[0], .events = POLLIN},
                           {.fd = runner.pidfd, .events = POLLIN}};
  while (poll(ends, 2, -1) < 0 && errno == EINTR) continue;
  return (ends[0].revents & POLLIN) != 0 && read(runner.answers[0], &byte, 1) == 1;
}

static bool make_process(void) {
  runner.orders[0] = runner.orders[1] = runner.answers[0] = runner.answers[1] = runner.pidfd = -1;
  if (!stack) {
    void* memory = mmap(NULL, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return false;
    stack = memory;
  }
  // A runner that did not return from its functions leaves the sanitizer's marks of them.
  ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
  if (pipe2(runner.orders, O_CLOEXEC) < 0 || pipe2(runner.answers, O_CLOEXEC) < 0) return false;
  pid_t pid = clone(runner_main, stack + kStackBytes, CLONE_VM | CLONE_FILES | CLONE_NEWPID, NULL);
  if (pid < 0) return false;
  runner.pid = pid;
  runner.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  return true;
}

const char* runner_prepare(const struct runner_kind* kind,
                           const char* (*enter)(const struct runner_kind* kind)) {
  if (runner.pid != 0) {
    bool fits = runner.kind.privileged == kind->privileged &&
                runner.kind.capabilities == kind->capabilities;
    if (fits) return NULL;
    runner_discard();
  }
  runner.kind = *kind;
  runner.enter = enter;
  runner.stage = NULL;
  if (!make_process()) {
    int error = errno;
    close_all();
    errno = error;
    return "fork";
  }
  if (answered()) return NULL;
  bury(runner.pid);
  close_all();
  errno = runner.stage ? runner.error : ECHILD;
  return runner.stage ? runner.stage : "fork";
}

pid_t runner_start(void (*run)(void* argument), void* argument) {
  char byte = 0;
  pid_t pid = runner.pid;
  runner.run = run;
  runner.argument = argument;
  bool begun = write(runner.orders[1], &byte, 1) == 1 && answered();
  // The agent's own end would hide the runner's.
  close(runner.answers[1]);
  runner.answers[1] = -1;
  while (begun && read(runner.answers[0], &byte, 1) < 0 && errno == EINTR) continue;
  close_all();
  // One that executed nothing is still a child without a signal; the program is not.
  while (waitpid(pid, NULL, __WCLONE) < 0) {
    if (errno != EINTR) return pid;
  }
  errno = ECHILD;
  return -1;
}

void runner_discard(void) {
  if (runner.pid == 0) return;
  kill(runner.pid, SIGKILL);
  bury(runner.pid);
  close_all();
}
