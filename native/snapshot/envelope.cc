// Sealing and opening.
#include "snapshot/envelope.h"

#include <algorithm>
#include <string>

#include "base/byte_io.h"
#include "base/crc32c.h"

namespace vmfork {

std::vector<std::byte> SealEnvelope(std::string_view magic, std::span<const std::byte> content) {
  ByteWriter out;
  out.PutBytes(std::as_bytes(std::span(magic)));
  out.Put(kSnapshotFormatVersion);
  out.Put(Crc32c(content));
  out.PutBytes(content);
  return out.Take();
}

Result<std::span<const std::byte>> OpenEnvelope(std::string_view magic,
                                                std::span<const std::byte> bytes,
                                                const char* operation, std::string_view what) {
  const auto damaged = [operation](std::string detail) {
    return Fail(ErrorCode::kSnapshotInvalid, operation, std::move(detail));
  };
  ByteReader in(bytes);
  const auto found = in.GetBytes(magic.size());
  if (!std::ranges::equal(found, std::as_bytes(std::span(magic))))
    return damaged("not a vmfork " + std::string(what));
  const auto version = in.Get<uint32_t>();
  if (in.Ok() && version != kSnapshotFormatVersion) {
    return Fail(ErrorCode::kSnapshotIncompatible, "load snapshot",
                "format version " + std::to_string(version) + ", this library reads " +
                    std::to_string(kSnapshotFormatVersion));
  }
  const auto checksum = in.Get<uint32_t>();
  if (!in.Ok()) return damaged("truncated header");
  const auto content = bytes.last(in.Remaining());
  if (Crc32c(content) != checksum) return damaged("wrong checksum");
  return content;
}

}  // namespace vmfork
