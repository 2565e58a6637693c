// Opening, checking and writing what digests cover.
#include "snapshot/saved_files.h"

#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "memory/image_content.h"

namespace vmfork {

namespace {

// So much at a time keeps a worker for some tens of milliseconds.
constexpr uint64_t kMostChunksAPart = 32;

struct NamedFile {
  std::string path;
  uint64_t chunks = 0;
  DigestedFile content;
};

uint64_t ChunksIn(uint64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; }

// `whole_disks` keeps the runs that are referred to.
std::vector<NamedFile> AllFiles(const SavedFiles& files,
                                std::array<PageRun, kMediaSlots>& whole_disks) {
  std::vector<NamedFile> all;
  all.reserve(files.memory.layers.size() + kMediaSlots);
  const uint64_t memory_chunks = ChunksIn(files.memory.image->Size());
  for (const auto& layer : files.memory.layers) {
    all.push_back({.path = layer->directory + kMemoryName,
                   .chunks = memory_chunks,
                   .content = {layer->file->Get(), layer->runs, layer->digests}});
  }
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const SavedDisk& disk = files.disks[i];
    if (disk.file == nullptr) continue;
    whole_disks[i] = WholeDisk(disk.content.size_bytes);
    all.push_back(
        {.path = files.Own().directory + DiskName(i),
         .chunks = ChunksIn(disk.content.size_bytes),
         .content = {disk.file->Get(), std::span(&whole_disks[i], 1), disk.content.digests}});
  }
  return all;
}

Result<void> VerifyChunk(const NamedFile& file, uint64_t chunk, FileReading& reading) {
  auto intact = ChunkIsIntact(file.content, chunk, &reading);
  if (intact && *intact) return {};
  const std::string place = " between offsets " + std::to_string(chunk * kChunkBytes) + " and " +
                            std::to_string((chunk + 1) * kChunkBytes);
  if (intact) {
    return Fail(ErrorCode::kSnapshotInvalid, "verify snapshot", file.path + " is damaged" + place);
  }
  Error& error = intact.error();
  // What cannot be read is as bad as what reads wrong: a clone that touched it would end.
  if (error.error_number == EIO) error.code = ErrorCode::kSnapshotInvalid;
  error.detail = file.path + " cannot be read" + place;
  return std::unexpected(std::move(error));
}

}  // namespace

Result<SavedFiles> OpenSavedFiles(const std::string& directory, const DecodedManifest& decoded) {
  SavedFiles files;
  VMFORK_TRY(memory, OpenSavedMemory(directory, decoded));
  files.memory = std::move(memory);
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const Manifest::Disk& disk = decoded.manifest.disks[i];
    if (disk.size_bytes == 0) continue;
    VMFORK_TRY(file, OpenSized(directory + DiskName(i), disk.size_bytes));
    files.disks[i] = {std::move(file), disk};
  }
  return files;
}

Result<VerifiedPart> VerifyPart(const SavedFiles& files, uint64_t position, VerifyMode mode) {
  std::array<PageRun, kMediaSlots> whole_disks;
  FileReading reading{.in_passing = mode == VerifyMode::kInPassing};
  uint64_t next = position / kChunkBytes;
  uint64_t first = 0;  // the number of the file's first chunk among all
  uint64_t left = kMostChunksAPart;
  for (const NamedFile& file : AllFiles(files, whole_disks)) {
    const uint64_t end = first + file.chunks;
    for (; next < end && left > 0; ++next, --left) {
      VMFORK_CHECK(VerifyChunk(file, next - first, reading));
      // Holes take no time.
      if (reading.in_passing && reading.bytes > 0) left = 1;
    }
    first = end;
  }
  return VerifiedPart{.next = next < first ? next * kChunkBytes : 0,
                      .end = first * kChunkBytes,
                      .read_bytes = reading.bytes};
}

Result<std::vector<ChunkDigest>> WriteMemory(int fd, const Image& image,
                                             std::span<const SavedExtent> extents,
                                             uint64_t& written_bytes) {
  if (::ftruncate(fd, static_cast<off_t>(image.Size())) != 0)
    return FailErrno("ftruncate", "memory");
  ChunkDigester digester;
  for (const auto& [run, layer] : extents) {
    if (layer != 0) continue;
    VMFORK_CHECK(ForEachImageContent(
        image, run, [&](uint64_t offset, std::span<const std::byte> pages) -> Result<void> {
          digester.Add(offset, pages);
          written_bytes += pages.size();
          return WriteFully(fd, pages, offset);
        }));
  }
  return digester.Take();
}

}  // namespace vmfork
