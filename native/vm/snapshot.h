// Snapshot: a frozen VM. Immutable, shared by all its clones, usable from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "memory/image.h"
#include "snapshot/machine_state.h"
#include "vm/engine.h"

namespace vmfork {

class Snapshot {
 public:
  Snapshot(std::shared_ptr<const Image> image, MachineState state, std::string metadata)
      : image_(std::move(image)), state_(std::move(state)), metadata_(std::move(metadata)) {}

  const std::shared_ptr<const Image>& GetImage() const { return image_; }
  const MachineState& State() const { return state_; }
  const std::string& Metadata() const { return metadata_; }

  // Writes memory, state and metadata into `directory`, which must not exist, by way of a temporary
  // sibling and a rename. Blocks for as long as the disk takes. Errors: kSystem.
  Result<void> Save(const std::string& directory, const std::string& metadata) const;
  // Maps what Save() wrote; memory is read as it is touched. Errors: kSnapshotInvalid,
  // kSnapshotIncompatible (says what differs), kSystem.
  static Result<std::shared_ptr<Snapshot>> Load(Engine& engine, const std::string& directory);

 private:
  std::shared_ptr<const Image> image_;
  MachineState state_;
  std::string metadata_;
};

}  // namespace vmfork
