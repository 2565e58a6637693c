// CRC-32C (Castagnoli), as in RFC 3720 appendix B.4: tells accidents, not attacks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmfork {

uint32_t Crc32c(std::span<const std::byte> bytes);

}  // namespace vmfork
