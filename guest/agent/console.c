// Writes one line to standard error, which is /dev/console in the guest. No stdio: it would cost
// more bytes than the rest of the agent.
#include "console.h"

#include <string.h>
#include <unistd.h>

enum { kLineBytes = 200 };

static size_t put_text(char* line, size_t at, const char* text) {
  while (*text && at < kLineBytes - 1) line[at++] = *text++;
  return at;
}

static size_t put_number(char* line, size_t at, unsigned value) {
  char digits[12];
  size_t count = 0;
  do {
    digits[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  while (count > 0 && at < kLineBytes - 1) line[at++] = digits[--count];
  return at;
}

void console_say(const char* what, int error) {
  char line[kLineBytes];
  size_t at = put_text(line, 0, "vmfork-agent: ");
  at = put_text(line, at, what);
  if (error > 0) {
    at = put_text(line, at, " (errno ");
    at = put_number(line, at, (unsigned)error);
    at = put_text(line, at, ")");
  }
  line[at++] = '\n';
  ssize_t written = write(STDERR_FILENO, line, at);
  (void)written;
}

void fatal(const char* what, int error) {
  console_say(what, error);
  _exit(1);
}
