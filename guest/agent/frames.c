// Frame headers and TLVs: the border at which every length the host sent is checked, once.
#include "frames.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian, as x86 is");

enum { kTlvHeaderBytes = 8 };

enum stream_rule { kOnConnection, kOnStream };

// What docs/protocol.md allows in a frame of this type coming from the host.
struct rule {
  uint8_t type;
  uint8_t stream;
  uint16_t aux_min;
  uint16_t aux_max;
  bool has_value;
  uint32_t max_length;
};

static const struct rule kRules[] = {
    {kPing, kOnConnection, 0, 0, true, kDataMaxBytes},
    {kQuiesce, kOnConnection, 0, 0, true, 0},
    {kResume, kOnConnection, 0, 2, true, kFrameMaxPayloadBytes},
    {kShutdown, kOnConnection, 0, 0, false, 0},
    {kExec, kOnStream, 0, 7, false, kFrameMaxPayloadBytes},
    {kData, kOnStream, kAuxStdin, kAuxStdin, false, kDataMaxBytes},
    {kEof, kOnStream, kAuxStdin, kAuxStdin, false, 0},
    {kWindow, kOnStream, kAuxStdout, kAuxStderr, true, 0},
    {kResize, kOnStream, 0, 0, true, 0},
    {kSignal, kOnStream, 0, 1, true, 0},
    {kMountRootfs, kOnStream, 0, 0, false, kDataMaxBytes},
    {kUnmountRootfs, kOnStream, 0, 0, false, 0},
    {kPrepare, kOnStream, 0, 0, false, 0},
    {kAdoptMain, kOnStream, 0, 0, false, 0},
    {kFileRead, kOnStream, 0, 0, false, kFrameMaxPayloadBytes},
    {kFileWrite, kOnStream, 0, 7, false, kFrameMaxPayloadBytes},
    {kDial, kOnStream, 0, 0, false, kDataMaxBytes},
    {kRelease, kOnStream, 0, 0, false, kFrameMaxPayloadBytes},
};

static const struct rule* find_rule(uint8_t type) {
  for (size_t i = 0; i < sizeof kRules / sizeof kRules[0]; i++) {
    if (kRules[i].type == type) return &kRules[i];
  }
  return NULL;
}

void frame_encode(const struct frame* frame, uint8_t* header) {
  memcpy(header, &frame->length, 4);
  memcpy(header + 4, &frame->stream, 4);
  header[8] = frame->type;
  header[9] = frame->flags;
  memcpy(header + 10, &frame->aux, 2);
  memcpy(header + 12, &frame->value, 4);
}

struct frame frame_decode(const uint8_t* header) {
  struct frame frame = {.type = header[8], .flags = header[9]};
  memcpy(&frame.length, header, 4);
  memcpy(&frame.stream, header + 4, 4);
  memcpy(&frame.aux, header + 10, 2);
  memcpy(&frame.value, header + 12, 4);
  return frame;
}

bool frame_known(uint8_t type) { return find_rule(type) != NULL; }

const char* frame_check(const struct frame* frame) {
  if (frame->length > kFrameMaxPayloadBytes) return "frame longer than 1 MiB";
  const struct rule* rule = find_rule(frame->type);
  if (!rule) return NULL;
  if (frame->flags != 0) return "flags set in a frame that has none";
  if (frame->length > rule->max_length) return "payload too long for its type";
  if ((frame->stream != 0) != (rule->stream == kOnStream)) return "type not allowed on this stream";
  if (frame->aux < rule->aux_min || frame->aux > rule->aux_max) return "aux out of range";
  if (frame->value != 0 && !rule->has_value) return "value set in a frame that has none";
  return NULL;
}

enum tlv_result tlv_next(struct tlv_reader* reader, struct tlv* tlv) {
  size_t left = (size_t)(reader->end - reader->next);
  if (left == 0) return kTlvEnd;
  if (left < kTlvHeaderBytes) return kTlvMalformed;
  uint16_t zero;
  memcpy(&tlv->tag, reader->next, 2);
  memcpy(&zero, reader->next + 2, 2);
  memcpy(&tlv->length, reader->next + 4, 4);
  if (zero != 0 || tlv->length > left - kTlvHeaderBytes) return kTlvMalformed;
  tlv->value = reader->next + kTlvHeaderBytes;
  reader->next = tlv->value + tlv->length;
  return kTlvGot;
}

bool tlv_u32(const struct tlv* tlv, uint32_t* value) {
  if (tlv->length != sizeof *value) return false;
  memcpy(value, tlv->value, sizeof *value);
  return true;
}

bool tlv_u64(const struct tlv* tlv, uint64_t* value) {
  if (tlv->length != sizeof *value) return false;
  memcpy(value, tlv->value, sizeof *value);
  return true;
}

void tlv_begin(struct tlv_writer* writer, uint8_t* start, size_t capacity) {
  *writer = (struct tlv_writer){.start = start, .next = start, .end = start + capacity};
}

void tlv_put(struct tlv_writer* writer, uint16_t tag, const void* value, uint32_t length) {
  size_t left = (size_t)(writer->end - writer->next);
  if (left < kTlvHeaderBytes || length > left - kTlvHeaderBytes) {
    writer->overflow = true;
    return;
  }
  memcpy(writer->next, &tag, 2);
  memset(writer->next + 2, 0, 2);
  memcpy(writer->next + 4, &length, 4);
  if (length > 0) memcpy(writer->next + kTlvHeaderBytes, value, length);
  writer->next += kTlvHeaderBytes + length;
}

void tlv_put_u32(struct tlv_writer* writer, uint16_t tag, uint32_t value) {
  tlv_put(writer, tag, &value, sizeof value);
}

void tlv_put_u64(struct tlv_writer* writer, uint16_t tag, uint64_t value) {
  tlv_put(writer, tag, &value, sizeof value);
}

void tlv_put_text(struct tlv_writer* writer, uint16_t tag, const char* text) {
  tlv_put(writer, tag, text, (uint32_t)strlen(text));
}

uint32_t tlv_size(const struct tlv_writer* writer) {
  return (uint32_t)(writer->next - writer->start);
}
