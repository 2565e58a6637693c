// Copying what is in disks' files: blocks are shared where the filesystem can, holes stay holes.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "base/result.h"

namespace vmfork {

// kDisk, with errno; kTooManyFiles where that is why.
std::unexpected<Error> FailDisk(std::string operation, std::string detail);

// The whole content, if the filesystem can share all blocks of the two (FICLONE). Takes no longer
// than writing down where they are.
bool TryClone(int from, int to);

// Makes a range of `to` equal to that of `from`, by way of the kernel where both filesystems can.
// `is_fresh`: nothing was ever written there. Error: kDisk.
Result<void> CopyRange(int from, int to, uint64_t start, uint64_t end, bool is_fresh);

}  // namespace vmfork
