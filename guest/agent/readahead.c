// Where each page read costs much, a clone should read what is asked for and little else.
#include "readahead.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "console.h"

void readahead_at_rest(void) {
  static bool is_set;
  if (is_set) return;
  is_set = true;
  const char* kib = getenv("VMFORK_READ_AHEAD_KIB");
  char path[] = "/sys/block/vda/queue/read_ahead_kb";
  char* letter = path + sizeof "/sys/block/vd" - 1;
  for (; kib && *letter <= 'z'; ++*letter) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;  // the disk before was the last
    if (write(fd, kib, strlen(kib)) < 0) console_say(path, errno);
    close(fd);
  }
}
