// Snapshot: a frozen VM. Immutable, shared by all its clones, usable from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "memory/early_pages.h"
#include "memory/image.h"
#include "memory/page_runs.h"
#include "snapshot/machine_state.h"
#include "snapshot/saved_files.h"
#include "vm/engine.h"
#include "vm/ground.h"

namespace vmfork {

class Snapshot;

struct SaveOptions {
  std::string metadata;
  // A snapshot of the same size of memory that is on disk, itself or by its directory: only what
  // differs from it is written. Neither: everything is.
  std::shared_ptr<const Snapshot> base;
  std::string base_directory;
  std::vector<std::byte> key;  // empty: not authenticated
};

struct SaveReport {
  std::string id;             // of the directory's manifest
  size_t layers = 1;          // directories that it consists of
  uint64_t memory_bytes = 0;  // of RAM that were written, without zeros
};

struct LoadOptions {
  std::vector<std::byte> key;  // not empty: what was not saved with it is refused
  bool prefetch = false;       // have the recorded working set read ahead, when there is one
};

class Snapshot {
 public:
  // `shape` is the state's; null: it is made of that.
  Snapshot(std::shared_ptr<const Image> image, MachineState state, std::string metadata,
           SharedShape shape = nullptr);
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  const std::shared_ptr<const Image>& GetImage() const { return image_; }
  const MachineState& State() const { return *state_; }
  const std::shared_ptr<const MachineState>& SharedState() const { return state_; }
  const SharedShape& Shape() const { return shape_; }  // of the shells that its clones need
  const std::string& Metadata() const { return metadata_; }
  // How long its source stood still for it; 0 for a loaded one.
  std::chrono::nanoseconds Pause() const { return pause_; }
  void SetPause(std::chrono::nanoseconds pause) { pause_ = pause; }

  // Writes memory, state and manifest into `directory`, which must not exist, by way of a temporary
  // sibling and a rename. Blocks for as long as the disk takes. Errors: kSystem, kState (the base
  // is not on disk), kSnapshotIncompatible (it has another size of memory), kSnapshotInvalid (it is
  // damaged).
  Result<SaveReport> Save(const std::string& directory, const SaveOptions& options) const;
  // Maps what Save() wrote; memory is read as it is touched. Errors: kSnapshotInvalid,
  // kSnapshotIncompatible (says what differs), kSystem.
  static Result<std::shared_ptr<Snapshot>> Load(Engine& engine, const std::string& directory,
                                                const LoadOptions& options);

  // What its clones use first; shared by all of them.
  EarlyPages& Early() const { return early_; }

  // The pool is to forget this snapshot's memory when it ends. Idempotent.
  void TellWhenGone(const std::shared_ptr<ShellPoolLink>& pool) const;

  // Reads a part of what is on disk, of the whole chain, and compares it with its digests. Errors:
  // kState (it is not on disk), kSnapshotInvalid (names file and offset), kSystem. What was found
  // damaged once stays so: shells that wait may hold copies of it.
  Result<VerifiedPart> Verify(uint64_t position, VerifyMode mode = VerifyMode::kAwaited) const;
  // Whether it may be forked, or saved: neither when its memory, or what that stands on, lies in
  // files that are known to be damaged. Error: kSnapshotInvalid, with what was found.
  Result<void> CheckSound(const char* operation) const;
  // Its source came of `origin`: what that stands on, this does.
  void StandOn(const Snapshot& origin) { ground_ = origin.ground_; }
  // Keeps the parts of RAM that a clone touched beside the saved files. Errors: kState (it is not
  // on disk), kSystem.
  Result<void> RecordWorkingSet(std::span<const PageRun> runs) const;

 private:
  Result<SaveReport> SaveWithMemory(const std::string& directory, const SaveOptions& options) const;
  static Result<std::shared_ptr<Snapshot>> LoadWithMemory(Engine& engine,
                                                          const std::string& directory,
                                                          const LoadOptions& options);
  // The files of the last save, or those it was loaded from. Error: kState.
  Result<std::shared_ptr<const SavedFiles>> OnDisk(const char* operation) const;
  // Whether those are not known to be damaged. Error: kSnapshotInvalid.
  Result<void> CheckFiles(const char* operation) const;
  Result<LayerPlan> Plan(const SaveOptions& options) const;
  Result<SavedFiles> Write(PendingDirectory& pending, const LayerPlan& plan,
                           const SaveOptions& options, const std::string& directory,
                           uint64_t& memory_bytes) const;

  std::shared_ptr<const Image> image_;
  std::shared_ptr<const MachineState> state_;
  SharedShape shape_;
  std::string metadata_;
  std::chrono::nanoseconds pause_{0};
  mutable EarlyPages early_;
  mutable std::mutex pools_mutex_;  // guards the next one
  mutable std::vector<std::shared_ptr<ShellPoolLink>> pools_;
  mutable std::mutex files_mutex_;  // guards the next two
  mutable std::shared_ptr<const SavedFiles> files_;
  mutable std::shared_ptr<Ground> files_ground_;  // those files; null as they are
  // What its memory lies in: of a loaded one those it was loaded from, whatever it was saved to
  // since. Null: all of it is in memory.
  std::shared_ptr<Ground> ground_;
};

}  // namespace vmfork
