// Pseudo-terminals of commands.
#ifndef VMFORK_AGENT_PTY_H
#define VMFORK_AGENT_PTY_H

#include <stdint.h>

struct pty {
  int master;  // non-blocking
  int slave;
};

// Opens a terminal by a multiplexer, `path` below `directory`. Returns 0 or an errno; `size` is
// rows
// << 16 | columns.
int pty_open(struct pty* pty, int directory, const char* path, uint32_t size);
void pty_resize(int master, uint32_t size);
// The bytes that make a reader of the terminal see its end; returns how many (0 to 2).
uint32_t pty_end_of_input(int master, int mid_line, uint8_t bytes[2]);

#endif
