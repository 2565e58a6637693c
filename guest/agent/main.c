// vmfork's guest agent: PID 1 of every VM. Boots the guest's user space with a few system calls,
// connects to the host, then serves the control protocol (docs/protocol.md).
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "boot.h"
#include "console.h"
#include "container.h"
#include "events.h"
#include "forkpoint.h"
#include "identity.h"
#include "link.h"
#include "loop.h"
#include "reaper.h"

int main(int count, char** argv) {
  if (count > 0 && reaper_called(argv)) reaper_run(argv);
  if (getpid() != 1) fatal("this program is the init process of a vmfork guest", 0);
  boot_mounts();
  boot_files();
  identity_init(AT_FDCWD, true);
  boot_bind_boot_id();
  boot_loopback();
  events_init();
  container_init("", true);
  forkpoint_init("/run/vmfork/fork-point.sock");
  link_open(getenv("VMFORK_CONTROL"));
  loop_run(true);
}
