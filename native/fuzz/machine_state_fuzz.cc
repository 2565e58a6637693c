// The decoder of snapshot state. Fuzzed bytes are wrapped with right checksums half of the time, so
// that sections are reached.
#include <cstring>
#include <tuple>

#include "base/byte_io.h"
#include "base/crc32c.h"
#include "snapshot/machine_state.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vmfork;
  const auto input = std::as_bytes(std::span(data, size));
  std::ignore = DecodeMachineState(input);
  // Read as: sections of (tag byte, length byte, payload), given a valid frame.
  ByteReader in(input);
  ByteWriter sections;
  while (in.Ok() && in.Remaining() > 2) {
    const auto tag = in.Get<uint8_t>();
    const auto payload = in.GetBytes(std::min<size_t>(in.Get<uint16_t>(), in.Remaining()));
    sections.Put(uint32_t{tag} % 10);
    sections.Put(Crc32c(payload));
    sections.Put(uint64_t{payload.size()});
    sections.PutBytes(payload);
  }
  std::ignore = DecodeMachineState(SealEnvelope("VMFKSTAT", sections.Bytes()));
  return 0;
}
