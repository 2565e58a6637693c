// What a boot needs beside a machine: its options checked, its disks opened, its kernel in memory.
#pragma once

#include <vector>

#include "base/result.h"
#include "devices/virtio/block_medium.h"
#include "vm/machine.h"
#include "vm/options.h"

namespace vmfork {

// Error: kMemorySize.
Result<void> CheckMemorySize(uint64_t bytes);
// Read-only images. Errors: kKernelNotFound, kTooManyFiles, kSystem.
Result<std::vector<BlockDisk>> OpenDisks(Engine& engine, const std::vector<std::string>& paths);
// Kernel, initramfs and boot data into memory; the first processor to the entry point. Errors:
// kKernelNotFound, those of LoadKernel().
Result<void> LoadGuest(Machine& machine, const BootOptions& options);

}  // namespace vmfork
