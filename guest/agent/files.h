// FILE_READ and FILE_WRITE.
#ifndef VMFORK_AGENT_FILES_H
#define VMFORK_AGENT_FILES_H

#include <stdbool.h>
#include <stdint.h>

#include "frames.h"
#include "streams.h"

void file_read_start(const struct frame* frame, uint8_t* payload);
void file_write_start(const struct frame* frame, uint8_t* payload);
// False: the host sent more than it had credit for.
bool file_take(struct stream* stream, const uint8_t* bytes, uint32_t length);
void file_end(struct stream* stream);
void file_give_up(struct stream* stream);
// Sends one piece of a file being read. True: there is more to do now.
bool file_pump(struct stream* stream);

#endif
