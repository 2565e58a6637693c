// Opening chains, and adding to them.
#include "snapshot/saved_memory.h"

#include <algorithm>
#include <utility>

#include "memory/image_content.h"
#include "snapshot/saved_directory.h"

namespace vmfork {

namespace {

std::unexpected<Error> Invalid(std::string detail) {
  return Fail(ErrorCode::kSnapshotInvalid, "load snapshot", std::move(detail));
}

Result<std::shared_ptr<const SavedLayer>> MakeLayer(const std::string& directory,
                                                    const DecodedManifest& decoded) {
  const Manifest& manifest = decoded.manifest;
  VMFORK_TRY(file, OpenSized(directory + kMemoryName, manifest.memory_bytes));
  return std::make_shared<const SavedLayer>(SavedLayer{
      decoded.id, directory, std::move(file), manifest.RunsOf(0), manifest.memory_digests});
}

Result<std::shared_ptr<const SavedLayer>> OpenBaseAt(const std::string& path,
                                                     const BaseReference& base,
                                                     uint64_t memory_bytes) {
  VMFORK_TRY(directory, RealPath(path));
  VMFORK_TRY(decoded, ReadManifest(directory));
  if (!EqualDigests(decoded.id, base.id))
    return Invalid(directory + " is not the snapshot that this one was saved on");
  if (decoded.manifest.memory_bytes != memory_bytes)
    return Invalid(directory + " has another size of memory");
  return MakeLayer(directory, decoded);
}

Result<std::shared_ptr<const SavedLayer>> OpenBase(const std::string& directory,
                                                   const BaseReference& base,
                                                   uint64_t memory_bytes) {
  auto beside = OpenBaseAt(directory + "/" + base.relative_path, base, memory_bytes);
  if (beside || beside.error().code != ErrorCode::kSnapshotInvalid) return beside;
  auto absolute = OpenBaseAt(base.absolute_path, base, memory_bytes);
  if (absolute || absolute.error().code != ErrorCode::kSnapshotInvalid) return absolute;
  return Invalid("base " + base.absolute_path + ": " + beside.error().ToString());
}

// Whether one of `runs`, which are sorted, holds all of `part`: what lies outside has no digest.
bool Covers(std::span<const PageRun> runs, const PageRun& part) {
  const auto run = std::ranges::partition_point(runs, [&part](const PageRun& candidate) {
    return candidate.start + candidate.size <= part.start;
  });
  return run != runs.end() && run->start <= part.start &&
         part.start + part.size <= run->start + run->size;
}

// Extents by number of layer; bases that are wholly hidden are left out.
Result<std::vector<SavedExtent>> NumberExtents(
    const Image& merged, const std::shared_ptr<const UniqueFd>& own_file,
    std::span<const std::shared_ptr<const SavedLayer>> known, LayerPlan& plan) {
  std::vector<SavedExtent> extents;
  for (const Extent& extent : merged.Extents()) {
    const PageRun run{extent.start, extent.size};
    if (extent.file == own_file) {
      extents.push_back({run, 0});
      continue;
    }
    const auto in_use = std::ranges::find(plan.bases, extent.file, &SavedLayer::file);
    const auto number = static_cast<uint32_t>(in_use - plan.bases.begin() + 1);
    if (in_use == plan.bases.end()) {
      const auto layer = std::ranges::find(known, extent.file, &SavedLayer::file);
      if (layer == known.end())
        return Fail(ErrorCode::kInternal, "save snapshot", "an extent of no layer");
      plan.bases.push_back(*layer);
    }
    extents.push_back({run, number});
  }
  return extents;
}

}  // namespace

Result<SavedMemory> AssembleSavedMemory(std::vector<std::shared_ptr<const SavedLayer>> layers,
                                        std::span<const SavedExtent> extents,
                                        uint64_t memory_bytes) {
  std::vector<Extent> mapped;
  for (const auto& [run, number] : extents) {
    const SavedLayer& layer = *layers[number];
    if (!Covers(layer.runs, run))
      return Invalid("an extent outside of what " + layer.directory + " holds");
    mapped.push_back({run.start, run.size, layer.file, run.start});
  }
  VMFORK_TRY(image, Image::Make(memory_bytes, std::move(mapped)));
  return SavedMemory{std::move(layers), std::move(image)};
}

Result<SavedMemory> OpenSavedMemory(const std::string& directory, const DecodedManifest& decoded) {
  const Manifest& manifest = decoded.manifest;
  std::vector<std::shared_ptr<const SavedLayer>> layers;
  VMFORK_TRY(own, MakeLayer(directory, decoded));
  layers.push_back(std::move(own));
  for (const BaseReference& base : manifest.bases) {
    VMFORK_TRY(layer, OpenBase(directory, base, manifest.memory_bytes));
    layers.push_back(std::move(layer));
  }
  return AssembleSavedMemory(std::move(layers), manifest.extents, manifest.memory_bytes);
}

LayerPlan PlanWhole(const Image& image) {
  return {.extents = {{.run = {0, image.Size()}, .layer = 0}}, .bases = {}};
}

Result<std::optional<LayerPlan>> PlanDifference(const Image& image, const Image& base_image,
                                                const SavedMemory& base) {
  VMFORK_TRY(runs, FindDifferences(image, base_image));
  // A stand-in for the file that is to be made: it only has to be none of the others.
  const auto own_file = std::make_shared<const UniqueFd>();
  std::vector<Extent> own;
  for (const PageRun& run : runs) own.push_back({run.start, run.size, own_file, run.start});
  VMFORK_TRY(merged, Image::Overlay(*base.image, std::move(own)));
  if (merged->Extents().size() > kMaxSavedExtents) return std::nullopt;
  LayerPlan plan;
  VMFORK_TRY(extents, NumberExtents(*merged, own_file, base.layers, plan));
  if (plan.bases.size() >= kMaxLayers) return std::nullopt;
  plan.extents = std::move(extents);
  return plan;
}

}  // namespace vmfork
