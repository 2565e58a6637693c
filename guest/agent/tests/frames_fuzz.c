// libFuzzer entry for everything that reads bytes of the host without doing anything: `make fuzz`.
#include <stdlib.h>
#include <string.h>

#include "exec_request.h"
#include "frames.h"

int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size);

static void check_request(uint8_t* payload, uint32_t length) {
  struct spawn spawn;
  uint32_t pty_size;
  if (exec_request_parse(payload, length, &spawn, &pty_size)) return;
  volatile size_t total = 0;
  if (!spawn.argv[0]) abort();
  for (char** text = spawn.argv; *text; text++) total += strlen(*text);
  for (char** text = spawn.envp; *text; text++) total += strlen(*text);
}

int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < kFrameHeaderBytes) return 0;
  struct frame frame = frame_decode(bytes);
  uint8_t header[kFrameHeaderBytes];
  frame_encode(&frame, header);
  if (memcmp(header, bytes, sizeof header) != 0) abort();
  (void)frame_check(&frame);
  uint32_t length = (uint32_t)(size - kFrameHeaderBytes);
  if (length > kFrameMaxPayloadBytes) return 0;
  // Exactly as long as the payload, so that one byte too many is seen.
  uint8_t* payload = malloc(length + (length == 0));
  memcpy(payload, bytes + kFrameHeaderBytes, length);
  check_request(payload, length);
  free(payload);
  return 0;
}
