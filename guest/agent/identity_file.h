// A small file that is mapped, so that a new content of the same length is a few stores: user mode
// runs natively even where the guest kernel is interpreted. Others may write to it and cut it off
// at any moment; a file that was changed belongs to whoever did so, and is let go.
#ifndef VMFORK_AGENT_IDENTITY_FILE_H
#define VMFORK_AGENT_IDENTITY_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct identity_file {
  const char* path;
  int fd;
  uint32_t length;
  uint64_t sum;  // of what was written last
  char* page;    // NULL: there is no such file, or it was let go
};

// Once, before any other call: a file that ends too soon must not end the agent.
void identity_file_init(void);
// Makes the file anew; false with errno set when it cannot be made.
bool identity_file_make(struct identity_file* file, int directory);
// Replaces the content, unless the file was let go or is found to be changed. False with errno set
// when the file cannot be given this length.
bool identity_file_store(struct identity_file* file, const char* text, uint32_t length);
// Looks whether it was changed, and writes to its page what is there.
void identity_file_touch(struct identity_file* file);
void identity_file_let_go(struct identity_file* file);

#endif
