// The working set of a snapshot: the parts of RAM that a clone touched, kept beside it so that a
// later load can have them read before they are asked for. Only a hint: it is bound to the manifest
// it was recorded for, and neither digests nor authentication cover it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "memory/image.h"
#include "memory/page_runs.h"

namespace vmfork {

// A longer list is not kept.
inline constexpr size_t kMaxWorkingSetRuns = 1 << 20;
inline constexpr uint64_t kMaxWorkingSetBytes = kMaxWorkingSetRuns * 16 + 64;

// Whether runs are whole pages in ascending order inside `memory_bytes`, not empty and not too
// many.
bool AreRunsPlausible(std::span<const PageRun> runs, uint64_t memory_bytes);

std::vector<std::byte> EncodeWorkingSet(std::span<const PageRun> runs, const Digest& manifest_id);
// Hostile input. Error: kSnapshotInvalid, also when it belongs to another manifest.
Result<std::vector<PageRun>> DecodeWorkingSet(std::span<const std::byte> bytes,
                                              const Digest& manifest_id, uint64_t memory_bytes);

// Has the kernel read those parts of the image's files into its page cache. Does not wait for all
// of it. Error: kSystem.
Result<void> Prefetch(const Image& image, std::span<const PageRun> runs);

}  // namespace vmfork
