// The media of a machine's drives when it is forked and frozen.
#pragma once

#include <array>
#include <optional>

#include "base/result.h"
#include "devices/virtio/block_capture.h"
#include "snapshot/machine_state.h"
#include "vm/engine.h"

namespace vmfork {

class Machine;

// Gives `config`, which is a snapshot's, media of its own where the guest writes. Errors: kDisk,
// kTooManyFiles, kTooManyMaps.
Result<void> ForkMedia(const Engine& engine, MachineConfig& config);

// Freezes what is in a machine's drives. Nothing is put in or taken out meanwhile.
class MediaCapture {
 public:
  // The machine may run. See BlockCapture::Prepare().
  static Result<MediaCapture> Prepare(const Engine& engine, const Machine& machine);
  // Of a machine that stands still: puts what its disks show now into `config`, which is its own as
  // it was read since. Error: kDisk.
  Result<void> Take(MachineConfig& config);
  // The machine goes on over that. Once the rest of it is frozen: before, it is as it was.
  void GoOn(Machine& machine);

 private:
  std::array<std::optional<BlockCapture>, kMediaSlots> captures_;
  std::array<std::shared_ptr<const BlockMedium>, kMediaSlots> next_;
};

}  // namespace vmfork
