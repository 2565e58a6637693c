// What callers give to and get from a VM: plain values, no behaviour.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/virtio/block_medium.h"
#include "memory/page_runs.h"

namespace vmfork {

struct BootOptions {
  std::string kernel_path;              // vmlinux (ELF64) or bzImage
  std::string initrd_path;              // empty: none
  std::vector<std::string> disk_paths;  // read-only images: /dev/vda, …; at most 4
  std::string cmdline;                  // the engine appends one virtio_mmio.device=… per device
  uint64_t memory_bytes = 0;            // multiple of 4 KiB, 32 MiB … 64 GiB
  uint32_t vcpus = 1;                   // 1 … 8
  uint32_t cid = 3;                     // the guest's vsock address, 3 or more
  size_t console_bytes = 65536;         // newest console output kept
};

struct ForkOptions {
  uint32_t cid = 3;
  std::vector<std::byte>
      control_bytes;  // lie in the control channel before the clone's first instruction
  size_t console_bytes = 65536;
};

// A disk for a drive of a machine that runs.
struct DiskOptions {
  // What `path` is; a scratch disk holds that at first.
  BlockMedium::Kind kind = BlockMedium::Kind::kImage;
  std::string path;            // a regular file or block device; empty: a new scratch disk
  uint64_t scratch_bytes = 0;  // of a new scratch disk; a multiple of 512
  std::string serial;          // what the guest reads; 20 bytes of it count
};

// One step of a boot or fork.
struct Stage {
  const char* name;
  uint64_t nanoseconds;
};

// Bytes, exact, from the kernel's page tables.
struct MemoryUse {
  uint64_t resident = 0;  // present
  uint64_t shared = 0;    // of those, still the image's pages
  uint64_t owned = 0;     // written since boot or fork: this VM's alone
};

// In which pages two VMs may differ, by RAM offset.
struct MemoryDifference {
  std::vector<PageRun> here;    // that the one owns
  std::vector<PageRun> there;   // that the other one owns
  std::vector<PageRun> frozen;  // that differ in what the two were last frozen or forked as
};

// Hears of what a VM does by itself. Called on the engine's threads, never with a lock of the VM
// held; must return soon and must not call Destroy() from within.
class VmObserver {
 public:
  virtual ~VmObserver() = default;
  // The VM ended by itself: the machine that was in it then, 0, or n after its nth reset. At most
  // once for each, never after Destroy(). An end just before a reset may be heard of after it.
  virtual void OnExit(uint32_t machine, const Error& reason) = 0;
  // The guest dialled `port`, somebody listens there; `fd` is a connected Unix stream socket.
  virtual void OnConnection(uint32_t port, uint32_t guest_port, UniqueFd fd) = 0;
  // Console output, when watched.
  virtual void OnConsole(std::span<const std::byte> bytes) = 0;
};

}  // namespace vmfork
