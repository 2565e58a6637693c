// Runs on the host: gives a command a terminal of its own, as a terminal emulator would, and says what became of it.
//   terminal COMMAND [ARGUMENT…]: standard input is what the user types, standard output what the user sees; SIGUSR1
//   enlarges the window from 25 x 90 to 40 x 100; SIGTERM goes on to the command. Ends with the command's exit code; standard
//   error tells whether the command left the terminal as it found it.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static const struct winsize kSmall = {.ws_row = 25, .ws_col = 90};
static const struct winsize kLarge = {.ws_row = 40, .ws_col = 100};

static int master;
static pid_t pid;

static void enlarge(int number) {
  (void)number;
  ioctl(master, TIOCSWINSZ, &kLarge);
}

static void pass_on(int number) { kill(pid, number); }

_Noreturn static void run(const char *path, char **command) {
  setsid();
  int slave = open(path, O_RDWR);
  ioctl(slave, TIOCSCTTY, 0);
  for (int fd = 0; fd < 3; fd++) dup2(slave, fd);
  close(slave);
  close(master);
  execvp(command[0], command);
  perror(command[0]);
  _exit(127);
}

static int copy(int from, int to) {
  char bytes[4096];
  ssize_t count = read(from, bytes, sizeof bytes);
  if (count < 0 && errno == EINTR) return 1;
  return count > 0 && write(to, bytes, (size_t)count) == count;
}

// Until the last program on the terminal is gone.
static void relay(void) {
  struct pollfd sources[] = {{.fd = master, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
  for (;;) {
    if (poll(sources, 2, -1) < 0) continue;
    if (sources[0].revents != 0 && !copy(master, 1)) return;
    if (sources[1].revents != 0 && !copy(0, master)) sources[1].fd = -1;
  }
}

int main(int count, char **arguments) {
  struct termios before, after;
  master = posix_openpt(O_RDWR | O_NOCTTY);
  if (count < 2 || master < 0 || grantpt(master) < 0 || unlockpt(master) < 0) return 2;
  const char *path = ptsname(master);
  ioctl(master, TIOCSWINSZ, &kSmall);
  tcgetattr(master, &before);
  signal(SIGUSR1, enlarge);
  pid = fork();
  if (pid == 0) run(path, arguments + 1);
  signal(SIGTERM, pass_on);
  relay();
  int status;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  tcgetattr(master, &after);
  int same = before.c_iflag == after.c_iflag && before.c_oflag == after.c_oflag &&
             before.c_lflag == after.c_lflag && before.c_cflag == after.c_cflag;
  fprintf(stderr, same ? "as it was\n" : "changed\n");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
