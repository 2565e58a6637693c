// vmfork-point NAME [COMMAND [ARG...]]: waits at a fork point, then becomes COMMAND in each clone,
// with the payload's arguments behind its own and the payload's environment added to its own. Its
// standard input and output are the stream to the host; descriptor 3 is a file that holds the
// payload's data. docs/fork-points.md describes the protocol.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { kCountsBytes = 8, kMaxPayloadBytes = 64 << 10, kDataFd = 3 };

// In the VM's own file system, and where a container sees it.
static const char* const kSockets[] = {"/run/vmfork/fork-point.sock", "/run/vmfork.sock"};

_Noreturn static void die(const char* what) {
  perror(what);
  exit(126);
}

static int dial(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  for (size_t i = 0; i < sizeof kSockets / sizeof kSockets[0]; i++) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, kSockets[i]);
    if (connect(fd, (struct sockaddr*)&address, sizeof address) == 0) return fd;
  }
  die(kSockets[0]);
}

static void read_exactly(int fd, void* to, size_t length) {
  char* next = to;
  while (length > 0) {
    ssize_t count = read(fd, next, length);
    if (count == 0) errno = ECONNABORTED;
    if (count == 0 || (count < 0 && errno != EINTR)) die("fork point");
    if (count < 0) continue;
    next += count;
    length -= (size_t)count;
  }
}

// Splits the next `count` strings off; dies when they are not there.
static char** take_strings(char** next, const char* end, uint32_t count, char** into) {
  for (uint32_t i = 0; i < count; i++) {
    char* zero = memchr(*next, 0, (size_t)(end - *next));
    if (!zero) {
      errno = EBADMSG;
      die("payload");
    }
    *into++ = *next;
    *next = zero + 1;
  }
  return into;
}

static void hand_over(int stream, const char* data, size_t length) {
  int file = memfd_create("payload", 0);
  if (file < 0 || write(file, data, length) != (ssize_t)length || lseek(file, 0, SEEK_SET) < 0) {
    die("payload");
  }
  if (dup2(stream, STDIN_FILENO) < 0 || dup2(stream, STDOUT_FILENO) < 0) die("stream");
  // The stream may hold descriptor 3 itself; its copies are in place by now.
  if (file != kDataFd && dup2(file, kDataFd) < 0) die("payload");
  if (file != kDataFd) close(file);
}

int main(int count, char** arguments) {
  static char body[kMaxPayloadBytes];
  char greeting[96];
  uint32_t length, argc, envc;
  if (count < 2) {
    fputs("usage: vmfork-point NAME [COMMAND [ARG...]]\n", stderr);
    return 2;
  }
  int stream = dial();
  int greeting_length = snprintf(greeting, sizeof greeting, "FORK-POINT 1 %s\n", arguments[1]);
  if (write(stream, greeting, (size_t)greeting_length) != greeting_length) die("fork point");
  read_exactly(stream, &length, sizeof length);
  if (length < kCountsBytes || length > sizeof body) {
    errno = EBADMSG;
    die("payload");
  }
  read_exactly(stream, body, length);
  memcpy(&argc, body, sizeof argc);
  memcpy(&envc, body + sizeof argc, sizeof envc);
  // No string is shorter than its NUL, so more than the payload has bytes cannot be meant.
  if (argc > length || envc > length) argc = envc = length;
  char** argv = calloc((size_t)count + argc + envc, sizeof *argv);
  if (!argv) die("payload");
  memcpy(argv, arguments + 2, (size_t)(count - 2) * sizeof *argv);
  char* next = body + kCountsBytes;
  char** end = take_strings(&next, body + length, argc, argv + count - 2);
  *end++ = NULL;
  char** env = end;
  end = take_strings(&next, body + length, envc, env);
  for (; env < end; env++) putenv(*env);
  hand_over(stream, next, (size_t)(body + length - next));
  if (argv[0]) execvp(argv[0], argv);
  die(argv[0] ? argv[0] : "no command");
}
