// SHA-256 (FIPS 180-4) and HMAC (RFC 2104): what saved snapshots are checked and authenticated
// with. Uses the processor's SHA instructions where it has them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace vmfork {

using Digest = std::array<std::byte, 32>;

class Sha256 {
 public:
  Sha256();
  // For tests: without the processor's instructions.
  struct Portable {};
  explicit Sha256(Portable);

  void Update(std::span<const std::byte> bytes);
  // The digest of all that was given; nothing may follow.
  Digest Finish();

  static Digest Of(std::span<const std::byte> bytes);
  static constexpr size_t kBlockBytes = 64;

 private:
  using Compress = void (*)(uint32_t* state, const std::byte* blocks, size_t count);

  explicit Sha256(Compress compress);
  Compress compress_;
  std::array<uint32_t, 8> state_;
  std::array<std::byte, kBlockBytes> pending_{};  // the begin of a block
  size_t pending_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

Digest HmacSha256(std::span<const std::byte> key, std::span<const std::byte> message);

// Takes the same time wherever they differ.
bool EqualDigests(const Digest& a, const Digest& b);

// Lower-case hexadecimal digits.
std::string DigestText(const Digest& digest);

}  // namespace vmfork
