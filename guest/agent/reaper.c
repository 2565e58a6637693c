// Runs the program in a process group of its own, passes signals on to it, collects orphans, and
// ends as it ends: with its code, or 128 and its signal.
#include "reaper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

bool reaper_called(char* const* argv) {
  return argv[0] && strcmp(argv[0], REAPER_NAME) == 0 && argv[1] && argv[2];
}

_Noreturn static void run_program(char** argv) {
  sigset_t none;
  // All signals are blocked, so a terminal does not stop us for taking its foreground.
  if (setpgid(0, 0) == 0) tcsetpgrp(STDIN_FILENO, getpid());
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  execv(argv[1], argv + 2);
  _exit(errno == ENOENT ? 127 : 126);
}

static void collect(pid_t program) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != program) continue;
    _exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
  }
}

_Noreturn void reaper_run(char** argv) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  pid_t program = vfork();
  if (program == 0) run_program(argv);
  if (program < 0) _exit(126);
  for (;;) {
    int signal_number = sigwaitinfo(&all, NULL);
    if (signal_number > 0 && signal_number != SIGCHLD) kill(program, signal_number);
    collect(program);
  }
}
