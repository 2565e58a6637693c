// The control connection: one byte stream to the host, with a bounded buffer each way.
#ifndef VMFORK_AGENT_LINK_H
#define VMFORK_AGENT_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frames.h"

enum {
  kOutBytes = 256 << 10,
  // Room for the longest answer to one frame (a PONG) and some small ones: below it no frame is
  // handled and no output of a command is read.
  kOutReserveBytes = kFrameHeaderBytes + kDataMaxBytes + (4 << 10),
  kSmallFrameBytes = 512,
};

// Dials the host over vsock, or opens `device` when that is not NULL. Does not return on failure.
void link_open(const char* device);
// Uses a connected stream socket; the agent's tests talk to the loop through one.
void link_adopt(int fd);
int link_fd(void);

// Reads what has come; with `wait` sleeps until something has. False: nothing there now.
bool link_fill(bool wait);
// True while the last read suggests that more bytes lie ready.
bool link_readable(void);
void link_set_readable(void);
bool link_writable(void);
void link_set_writable(void);

enum link_result { kLinkNothing, kLinkFrame, kLinkBroken };

// Takes the next whole frame from the input; its payload stays valid until the next link_fill. A
// header that breaks a rule is reported in `problem` at once, before its payload has come.
enum link_result link_next(struct frame* frame, uint8_t** payload, const char** problem);

size_t link_room(void);
bool link_idle(void);
// `length` must fit link_room().
void link_send(const struct frame* frame, const void* payload);
void link_send_small(uint8_t type, uint32_t stream, uint16_t aux, uint32_t value);
// For a frame that is usually followed by another at once: it need not be sent by itself.
void link_send_lazy(uint8_t type, uint32_t stream, uint16_t aux, uint32_t value);
// True while nothing but such frames is queued.
bool link_lazy(void);
void link_send_error(uint32_t stream, int error, const char* stage, const char* text);
// A place to read up to `length` bytes of DATA into, to be sent by link_commit_data.
uint8_t* link_reserve_data(size_t length);
void link_commit_data(uint32_t stream, uint16_t aux, uint32_t length);
// Sends what the host takes now; link_drain waits until it has taken everything.
void link_flush(void);
void link_drain(void);

#endif
