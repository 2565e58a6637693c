// Guest memory in the files of saved snapshots: one directory's own file, over those of its bases,
// as one flat image. Loading a chain maps files; it reads no memory.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "memory/image.h"
#include "snapshot/manifest.h"

namespace vmfork {

// One directory's part.
struct SavedLayer {
  Digest id{};            // of its manifest
  std::string directory;  // its real path when it was opened
  std::shared_ptr<const UniqueFd> file;
  std::vector<PageRun> runs;
  std::vector<ChunkDigest> digests;
};

struct SavedMemory {
  std::vector<std::shared_ptr<const SavedLayer>> layers;  // the directory's own first
  std::shared_ptr<const Image> image;
};

// One image over the files of `layers`. Error: kSnapshotInvalid, an extent lies where its layer has
// nothing.
Result<SavedMemory> AssembleSavedMemory(std::vector<std::shared_ptr<const SavedLayer>> layers,
                                        std::span<const SavedExtent> extents,
                                        uint64_t memory_bytes);

// Opens the files that a directory's manifest names, after checking that every base is the one that
// was built on. Errors: kSnapshotInvalid (names the base), kSystem, kTooManyFiles.
Result<SavedMemory> OpenSavedMemory(const std::string& directory, const DecodedManifest& decoded);

// How to save an image: the extents and bases of the new directory's manifest. The runs of layer 0
// are to be written.
struct LayerPlan {
  std::vector<SavedExtent> extents;
  std::vector<std::shared_ptr<const SavedLayer>> bases;
};
// All of it.
LayerPlan PlanWhole(const Image& image);
// Only what differs from what `base` holds. `base_image` is the same content as the caller knows it
// best: where it shares files with `image`, nothing is read. None: it would take too many layers or
// extents. Error: kSystem.
Result<std::optional<LayerPlan>> PlanDifference(const Image& image, const Image& base_image,
                                                const SavedMemory& base);

}  // namespace vmfork
