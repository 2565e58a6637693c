// Envelope: what begins every file of a saved snapshot but its memory and disks: magic, format
// version, CRC-32C of all that follows (docs/snapshot-format.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vmfork {

inline constexpr uint32_t kSnapshotFormatVersion = 4;

// `magic` has 8 characters, here and below.
std::vector<std::byte> SealEnvelope(std::string_view magic, std::span<const std::byte> content);
// The content, a view of `bytes`. `operation` and `what` ("state file") are for errors:
// kSnapshotInvalid (something else, truncated, damaged), kSnapshotIncompatible (another version).
Result<std::span<const std::byte>> OpenEnvelope(std::string_view magic,
                                                std::span<const std::byte> bytes,
                                                const char* operation, std::string_view what);

}  // namespace vmfork
