// The decoders of manifests and working sets. Fuzzed bytes are also wrapped in right headers with
// right checksums, so that what follows them is reached.
#include <tuple>

#include "base/byte_io.h"
#include "snapshot/manifest.h"
#include "snapshot/working_set.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vmfork;
  const auto input = std::as_bytes(std::span(data, size));
  const Digest id{};
  constexpr uint64_t kMemoryBytes = 64 << 20;
  const std::vector<std::byte> key(32, std::byte{7});
  std::ignore = DecodeManifest(input, {});
  std::ignore = DecodeManifest(SealEnvelope("VMFKMANI", input), key);
  std::ignore = DecodeWorkingSet(input, id, kMemoryBytes);

  ByteWriter unsigned_body;
  unsigned_body.Put(uint32_t{0});
  unsigned_body.PutBytes(id);
  unsigned_body.PutBytes(input);
  if (auto decoded = DecodeManifest(SealEnvelope("VMFKMANI", unsigned_body.Bytes()), {})) {
    // What is accepted means the same after another way through.
    const auto again = EncodeManifest(decoded->manifest, {});
    if (again.id != decoded->id) __builtin_trap();
  }
  ByteWriter runs;
  runs.PutBytes(id);
  runs.PutBytes(input);
  std::ignore = DecodeWorkingSet(SealEnvelope("VMFKWSET", runs.Bytes()), id, kMemoryBytes);
  return 0;
}
