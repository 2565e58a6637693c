// Encoding and checking of frames and TLVs. Pure functions on bytes: no system calls, no state.
#ifndef VMFORK_AGENT_FRAMES_H
#define VMFORK_AGENT_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

struct frame {
  uint32_t length;
  uint32_t stream;
  uint8_t type;
  uint8_t flags;
  uint16_t aux;
  uint32_t value;
};

struct tlv {
  uint16_t tag;
  uint32_t length;
  uint8_t* value;
};

// Walks a payload; set next and end to its bounds.
struct tlv_reader {
  uint8_t* next;
  uint8_t* end;
};

// Appends TLVs to a buffer; `overflow` is set, and stays set, when one did not fit.
struct tlv_writer {
  uint8_t* start;
  uint8_t* next;
  uint8_t* end;
  bool overflow;
};

enum tlv_result { kTlvMalformed = -1, kTlvEnd = 0, kTlvGot = 1 };

void frame_encode(const struct frame* frame, uint8_t* header);
struct frame frame_decode(const uint8_t* header);
// Returns NULL when a frame from the host keeps the rules of its type, else a sentence about the
// broken rule. Unknown types pass with any flags: they are answered, not refused.
const char* frame_check(const struct frame* frame);
bool frame_known(uint8_t type);

enum tlv_result tlv_next(struct tlv_reader* reader, struct tlv* tlv);
bool tlv_u32(const struct tlv* tlv, uint32_t* value);
bool tlv_u64(const struct tlv* tlv, uint64_t* value);

void tlv_begin(struct tlv_writer* writer, uint8_t* start, size_t capacity);
void tlv_put(struct tlv_writer* writer, uint16_t tag, const void* value, uint32_t length);
void tlv_put_u32(struct tlv_writer* writer, uint16_t tag, uint32_t value);
void tlv_put_u64(struct tlv_writer* writer, uint16_t tag, uint64_t value);
void tlv_put_text(struct tlv_writer* writer, uint16_t tag, const char* text);
uint32_t tlv_size(const struct tlv_writer* writer);

#endif
