// BlockRequest: one request of a guest to a disk (virtio 1.2, section 5.2.6), checked and copied
// out of its descriptors, and its execution, which any thread may do.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "devices/virtio/block_medium.h"
#include "devices/virtio/queue.h"

namespace vmfork {

struct BlockRequest {
  static constexpr size_t kIdBytes = 20;  // length of the GET_ID answer
  // Linux asks for 1.25 MiB at most (BLK_DEF_MAX_SECTORS).
  static constexpr size_t kMaxDataBytes = 16 << 20;
  // What the driver is told about DISCARD and WRITE_ZEROES, and held to.
  static constexpr uint32_t kMaxClearSegments = 16;
  static constexpr uint32_t kMaxClearSectors = (1U << 30) / BlockMedium::kSectorBytes;

  enum class Verdict {
    kBroken,   // breaks the rules of the ring
    kDone,     // `status` is the answer
    kExecute,  // to be executed
  };
  // Reads the request off a chain whose disk is `disk`; `read_only` says that the device does not
  // know requests that change it. A request that is done has its answer in place but for the
  // status.
  Verdict Parse(const DescriptorChain& chain, const BlockDisk& disk, bool read_only);
  // Whether a read could be answered from the host's page cache, at once; else it is as before.
  bool TryExecuteNow();
  // Blocks for as long as the host's disk takes.
  void Execute();
  // Puts the status into guest memory; the number of bytes written there by the whole request.
  uint32_t Answer();

  uint16_t head = 0;
  uint8_t status = 0;  // VIRTIO_BLK_S_*

 private:
  struct Range {
    uint64_t offset_bytes;
    uint64_t size_bytes;
  };
  uint8_t ParseTransfer(uint64_t sector, const BlockDisk& disk, bool read_only);
  uint8_t ParseRanges(const BlockDisk& disk, bool read_only);
  uint8_t ParseFlush(const BlockDisk& disk);
  uint8_t WriteId(std::string_view serial);
  bool Read(bool now);
  bool Write();
  bool Clear(const Range& range) const;

  uint32_t type_ = 0;
  std::shared_ptr<const BlockMedium> medium_;  // kept until the answer, whatever the device does
  uint64_t offset_bytes_ = 0;
  size_t data_bytes_ = 0;
  size_t done_bytes_ = 0;  // of the transfer
  // All reused, so that requests cause no allocation.
  std::vector<iovec> data_;  // in guest memory
  std::vector<iovec> status_byte_;
  std::vector<iovec> rest_;
  std::vector<Range> ranges_;
};

}  // namespace vmfork
