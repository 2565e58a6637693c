// The guest agent's loop as an ordinary process: control connection on descriptor 3, identity files below argv[1],
// the kernel's own state left alone. Lets the library be tested against the real agent without a VM.
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <unistd.h>

#include "container.h"
#include "events.h"
#include "forkpoint.h"
#include "identity.h"
#include "link.h"
#include "loop.h"

int main(int count, char **arguments) {
  int root = count > 1 ? open(arguments[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (root < 0) return 2;
  identity_init(root, false);
  if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) return 2;
  fcntl(3, F_SETFL, O_NONBLOCK);
  events_init();
  container_init(arguments[1], false);
  char socket_path[PATH_MAX];
  snprintf(socket_path, sizeof socket_path, "%s/run/vmfork/fork-point.sock", arguments[1]);
  forkpoint_init(socket_path);
  link_adopt(3);
  loop_run(false);
}
