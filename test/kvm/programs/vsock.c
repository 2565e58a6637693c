// vsock from inside the guest.
//   vsock echo PORT: sends back what comes, connection after connection
//   vsock dial PORT TEXT: connects to the host, sends TEXT, prints the answer
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static char buffer[65536];

static void write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, bytes, length);
    if (written <= 0) exit(1);
    bytes += written;
    length -= (size_t)written;
  }
}

static void copy(int from, int to) {
  ssize_t length;
  while ((length = read(from, buffer, sizeof buffer)) > 0) write_all(to, buffer, (size_t)length);
}

static int echo(unsigned port) {
  struct sockaddr_vm address = {
      .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
  int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (void *)&address, sizeof address) < 0 ||
      listen(listener, 32) < 0) {
    return 1;
  }
  signal(SIGCHLD, SIG_IGN);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    if (fork() == 0) {
      copy(fd, fd);
      shutdown(fd, SHUT_WR);
      _exit(0);
    }
    close(fd);
  }
}

static int dial(unsigned port, const char *text) {
  struct sockaddr_vm address = {
      .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_HOST};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (void *)&address, sizeof address) < 0) {
    printf("%s\n", strerror(errno));
    return 1;
  }
  write_all(fd, text, strlen(text));
  shutdown(fd, SHUT_WR);
  copy(fd, 1);
  return 0;
}

int main(int count, char **arguments) {
  if (count == 3 && strcmp(arguments[1], "echo") == 0) return echo((unsigned)atoi(arguments[2]));
  if (count == 4 && strcmp(arguments[1], "dial") == 0)
    return dial((unsigned)atoi(arguments[2]), arguments[3]);
  return 2;
}
