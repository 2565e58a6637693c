// The multiplexer and the few terminal ioctls. The slave is opened by TIOCGPTPEER (Linux 4.13),
// which needs no path below /dev/pts and so works whatever the guest mounted there.
#include "pty.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441
#endif

int pty_open(struct pty* pty, int directory, const char* path, uint32_t size) {
  int unlocked = 0;
  pty->slave = -1;
  pty->master = openat(directory, path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (pty->master < 0) return errno;
  if (ioctl(pty->master, TIOCSPTLCK, &unlocked) == 0) {
    pty->slave = ioctl(pty->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  if (pty->slave < 0) {
    int error = errno;
    close(pty->master);
    return error;
  }
  pty_resize(pty->master, size);
  return 0;
}

void pty_resize(int master, uint32_t size) {
  struct winsize window = {.ws_row = (uint16_t)(size >> 16), .ws_col = (uint16_t)size};
  ioctl(master, TIOCSWINSZ, &window);
}

uint32_t pty_end_of_input(int master, int mid_line, uint8_t bytes[2]) {
  struct termios terminal;
  if (tcgetattr(master, &terminal) < 0) return 0;
  bytes[0] = bytes[1] = terminal.c_cc[VEOF];
  // In canonical mode the first one behind an unfinished line only hands that line over.
  return mid_line && (terminal.c_lflag & ICANON) ? 2 : 1;
}
