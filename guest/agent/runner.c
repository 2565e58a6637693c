// The runner shares the agent's memory, as a child of vfork does, but has a stack of its own. It
// works only while the agent waits for it: they take turns. Its descriptors are the agent's until
// it starts, so that it holds none open that the agent has closed.
#include "runner.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/futex.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(start, length) ((void)0)
#endif

enum { kStackBytes = 128 << 10, kLookMs = 100 };

// Where the runner is. The kernel itself says kGone, and wakes who waits, when the runner becomes
// its program or ends: set_tid_address(2), kernel/fork.c mm_release().
enum { kGone = 0, kEntering = 1, kReady = 2 };

// What the agent has asked of it.
enum { kNothing = 0, kOrdered = 1, kTaken = 2 };

static struct {
  pid_t pid;  // 0: none waits
  _Atomic uint32_t state;
  _Atomic uint32_t order;
  struct runner_kind kind;
  const char* (*enter)(const struct runner_kind* kind);
  const char* stage;
  int error;
  void (*run)(void* argument);
  void* argument;
} runner;

static uint8_t* stack;

static void set_and_wake(_Atomic uint32_t* word, uint32_t value) {
  atomic_store(word, value);
  syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

// False when the time was over first; without a limit it never is.
static bool wait_while(_Atomic uint32_t* word, uint32_t value, const struct timespec* limit) {
  while (atomic_load(word) == value) {
    long result = syscall(SYS_futex, word, FUTEX_WAIT, value, limit, NULL, 0);
    if (result < 0 && errno == ETIMEDOUT) return false;
  }
  return true;
}

static int runner_main(void* unused) {
  (void)unused;
  syscall(SYS_set_tid_address, &runner.state);
  // An agent that ended gives no order any more; the program is on its own.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  runner.stage = runner.enter(&runner.kind);
  runner.error = errno;
  if (runner.stage) _exit(1);
  set_and_wake(&runner.state, kReady);
  wait_while(&runner.order, kNothing, NULL);
  atomic_store(&runner.order, kTaken);
  if (unshare(CLONE_FILES) < 0) {
    runner.error = errno;
    _exit(1);
  }
  prctl(PR_SET_PDEATHSIG, 0);
  runner.run(runner.argument);
  _exit(127);
}

// A child without a signal at its end is none that wait() sees, until it executes a program.
static void bury(pid_t pid) {
  while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
}

static bool make_process(void) {
  if (!stack) {
    void* memory = mmap(NULL, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return false;
    stack = memory;
  }
  // A runner that did not return from its functions leaves the sanitizer's marks of them.
  ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
  atomic_store(&runner.state, kEntering);
  atomic_store(&runner.order, kNothing);
  pid_t pid = clone(runner_main, stack + kStackBytes, CLONE_VM | CLONE_FILES | CLONE_NEWPID, NULL);
  if (pid < 0) return false;
  runner.pid = pid;
  return true;
}

// One that was killed before it told the kernel of the word is not waited for.
static bool became_ready(void) {
  const struct timespec limit = {.tv_nsec = kLookMs * 1000000};
  while (!wait_while(&runner.state, kEntering, &limit)) {
    siginfo_t ended = {.si_pid = 0};
    const int options = WEXITED | WNOHANG | WNOWAIT | __WALL;
    if (waitid(P_PID, (id_t)runner.pid, &ended, options) < 0 || ended.si_pid != 0) return false;
  }
  return atomic_load(&runner.state) == kReady;
}

const char* runner_prepare(const struct runner_kind* kind,
                           const char* (*enter)(const struct runner_kind* kind)) {
  if (runner.pid != 0) {
    // Whoever kills every process of the guest, or runs it out of memory, may kill this one.
    bool waits = atomic_load(&runner.state) == kReady;
    bool fits = runner.kind.privileged == kind->privileged &&
                runner.kind.capabilities == kind->capabilities;
    if (waits && fits) return NULL;
    runner_discard();
  }
  runner.kind = *kind;
  runner.enter = enter;
  runner.stage = NULL;
  if (!make_process()) return "fork";
  if (became_ready()) return NULL;
  bury(runner.pid);
  runner.pid = 0;
  errno = runner.stage ? runner.error : ECHILD;
  return runner.stage ? runner.stage : "fork";
}

static pid_t start(void (*run)(void* argument), void* argument, int* status) {
  pid_t pid = runner.pid;
  runner.error = ECHILD;
  runner.run = run;
  runner.argument = argument;
  runner.pid = 0;
  set_and_wake(&runner.order, kOrdered);
  wait_while(&runner.state, kReady, NULL);
  // One that executed nothing is still a child without a signal; the program is not.
  while (waitpid(pid, status, __WCLONE) < 0) {
    if (errno != EINTR) return pid;
  }
  errno = runner.error;
  return -1;
}

pid_t runner_start(void (*run)(void* argument), void* argument, int* status) {
  pid_t pid = start(run, argument, status);
  if (pid > 0 || atomic_load(&runner.order) == kTaken) return pid;
  // It was dying when it was asked.
  const struct runner_kind kind = runner.kind;
  return runner_prepare(&kind, runner.enter) ? -1 : start(run, argument, status);
}

void runner_discard(void) {
  if (runner.pid == 0) return;
  kill(runner.pid, SIGKILL);
  bury(runner.pid);
  runner.pid = 0;
}
