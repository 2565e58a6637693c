// Drive by drive.
#include "vm/media.h"

#include <utility>

#include "vm/machine.h"

namespace vmfork {

Result<void> ForkMedia(const Engine& engine, MachineConfig& config) {
  for (BlockDisk& disk : config.media) {
    if (!disk.IsWritable()) continue;
    VMFORK_TRY(medium, disk.medium->Fork(engine.ScratchDirectory()));
    disk.medium = std::move(medium);
  }
  return {};
}

Result<MediaCapture> MediaCapture::Prepare(const Engine& engine, const Machine& machine) {
  MediaCapture media;
  for (size_t i = 0; i < kMediaSlots; ++i) {
    BlockDisk disk = machine.Disk(i);
    if (!disk.IsWritable()) continue;
    VMFORK_TRY(capture, BlockCapture::Prepare(std::move(disk.medium), engine.ScratchDirectory()));
    media.captures_[i] = std::move(capture);
  }
  return media;
}

Result<void> MediaCapture::Take(MachineConfig& config) {
  for (size_t i = 0; i < kMediaSlots; ++i) {
    std::optional<BlockCapture>& capture = captures_[i];
    if (!capture) continue;
    VMFORK_TRY(taken, capture->Take());
    config.media[i].medium = std::move(taken.frozen);
    next_[i] = std::move(taken.source);
  }
  return {};
}

void MediaCapture::GoOn(Machine& machine) {
  for (size_t i = 0; i < kMediaSlots; ++i)
    if (next_[i] != nullptr) machine.ExchangeMedium(i, std::move(next_[i]));
}

}  // namespace vmfork
