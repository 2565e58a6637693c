// Snapshots without a machine, to be saved in a folder that goes with the test.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "memory/gpa.h"
#include "memory/private_view.h"
#include "tests/folder.h"
#include "tests/sample_state.h"
#include "tests/test.h"
#include "vm/snapshot.h"

namespace vmfork {

inline constexpr uint64_t kMemoryBytes = 64 << 20;
using SnapshotPtr = std::shared_ptr<Snapshot>;

// Pages and what fills them.
using Pages = std::vector<std::pair<uint64_t, char>>;

inline void WritePage(int fd, uint64_t offset, char fill) {
  const std::string page(kPageSize, fill);
  EXPECT_EQ(::pwrite(fd, page.data(), page.size(), static_cast<off_t>(offset)),
            static_cast<ssize_t>(kPageSize));
}

inline std::shared_ptr<const UniqueFd> NewFile(uint64_t size) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(fd.Get(), static_cast<off_t>(size)), 0);
  return std::make_shared<const UniqueFd>(std::move(fd));
}

inline SnapshotPtr Wrap(std::shared_ptr<const Image> image) {
  MachineState state = SampleState();
  state.config.memory_bytes = image->Size();
  return std::make_shared<Snapshot>(std::move(image), std::move(state), "{}");
}

inline SnapshotPtr Root(const Pages& pages, uint64_t size = kMemoryBytes) {
  auto file = NewFile(size);
  for (const auto& [page, fill] : pages) WritePage(file->Get(), page * kPageSize, fill);
  return Wrap(*Image::Make(size, {{0, size, file, 0}}));
}

// As a live snapshot is made: a packed layer over the parent's extents.
inline SnapshotPtr Branch(const Snapshot& parent, const Pages& pages) {
  auto file = NewFile(pages.size() * kPageSize);
  std::vector<Extent> layer;
  for (const auto& [page, fill] : pages) {
    const uint64_t position = layer.size() * kPageSize;
    WritePage(file->Get(), position, fill);
    layer.push_back({page * kPageSize, kPageSize, file, position});
  }
  return Wrap(*Image::Overlay(*parent.GetImage(), std::move(layer)));
}

inline SaveOptions On(SnapshotPtr base) {
  SaveOptions options;
  options.base = std::move(base);
  return options;
}

inline SaveOptions OnDirectory(std::string path) {
  SaveOptions options;
  options.base_directory = std::move(path);
  return options;
}

inline SaveReport Saved(const Snapshot& snapshot, const std::string& path,
                        const SaveOptions& options = {}) {
  auto report = snapshot.Save(path, options);
  if (!report) std::fprintf(stderr, "  %s\n", report.error().ToString().c_str());
  EXPECT_TRUE(report.has_value());
  return report.value_or(SaveReport{});
}

inline Result<SavedFiles> Opened(const std::string& path) {
  VMFORK_TRY(decoded, ReadManifest(path));
  return OpenSavedFiles(path, decoded);
}

inline bool ShowsTheSame(const std::shared_ptr<const Image>& a,
                         const std::shared_ptr<const Image>& b) {
  auto a_view = PrivateView::Map(a), b_view = PrivateView::Map(b);
  return a->Size() == b->Size() && std::memcmp(a_view->Data(), b_view->Data(), a->Size()) == 0;
}

}  // namespace vmfork
