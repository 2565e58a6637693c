// Sends back what comes over TCP port argv[1] and the Unix socket argv[2], a process for each
// connection.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { kBacklog = 64 };

static int listen_at(int family, const void* address, socklen_t length) {
  int fd = socket(family, SOCK_STREAM, 0);
  if (fd >= 0 && bind(fd, address, length) == 0 && listen(fd, kBacklog) == 0) return fd;
  perror("echo");
  exit(1);
}

static void echo(int fd) {
  static char bytes[64 << 10];
  ssize_t count;
  while ((count = read(fd, bytes, sizeof bytes)) > 0) {
    for (ssize_t sent = 0; sent < count;) {
      ssize_t done = write(fd, bytes + sent, (size_t)(count - sent));
      if (done < 0) return;
      sent += done;
    }
  }
}

static void serve(int listener) {
  int fd = accept(listener, NULL, NULL);
  if (fd >= 0 && fork() == 0) {
    echo(fd);
    _exit(0);
  }
  close(fd);
}

int main(int count, char** arguments) {
  if (count < 3) return 2;
  struct sockaddr_in tcp = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
  struct sockaddr_un local = {.sun_family = AF_UNIX};
  strncpy(local.sun_path, arguments[2], sizeof local.sun_path - 1);
  struct pollfd listeners[] = {
      {.fd = listen_at(AF_INET, &tcp, sizeof tcp), .events = POLLIN},
      {.fd = listen_at(AF_UNIX, &local, sizeof local), .events = POLLIN},
  };
  signal(SIGCHLD, SIG_IGN);
  puts("ready");
  fflush(stdout);
  for (;;) {
    if (poll(listeners, 2, -1) <= 0) continue;
    for (int i = 0; i < 2; i++) {
      if (listeners[i].revents) serve(listeners[i].fd);
    }
  }
}
