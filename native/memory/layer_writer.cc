// Shares of a layer, and who writes them.
#include "memory/layer_writer.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/file.h"
#include "memory/page_content.h"

namespace vmfork {

namespace {

// Some hundred microseconds of copying: what one writes more than another at the end.
constexpr uint64_t kShareBytes = 256 << 10;

Result<void> WriteSparse(int fd, const LayerPart& part) {
  return ForEachNonZeroRun(
      part.file_offset, part.bytes,
      [fd](uint64_t at, std::span<const std::byte> pages) { return WriteFully(fd, pages, at); });
}

// Outlives the call that made it when a helper comes late, and then has nothing left for it.
class Shares {
 public:
  Shares(int fd, std::vector<LayerPart> shares) : fd_(fd), shares_(std::move(shares)) {}

  void WriteAll() {
    while (const LayerPart* share = Begin()) End(WriteSparse(fd_, *share));
  }

  Result<void> Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return being_written_ == 0; });
    if (error_) return std::unexpected(*error_);
    return {};
  }

 private:
  const LayerPart* Begin() {
    std::lock_guard lock(mutex_);
    if (next_ == shares_.size()) return nullptr;
    ++being_written_;
    return &shares_[next_++];
  }

  void End(Result<void> written) {
    std::lock_guard lock(mutex_);
    if (!written) {
      next_ = shares_.size();
      error_ = std::move(written).error();
    }
    if (--being_written_ == 0) changed_.notify_all();
  }

  const int fd_;
  const std::vector<LayerPart> shares_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  size_t next_ = 0;
  size_t being_written_ = 0;
  std::optional<Error> error_;
};

}  // namespace

Result<void> WriteLayer(int fd, std::span<const LayerPart> parts, WorkerPool* helpers) {
  std::vector<LayerPart> list;
  for (const auto& [bytes, file_offset] : parts) {
    for (uint64_t at = 0; at < bytes.size(); at += kShareBytes) {
      const uint64_t size = std::min(kShareBytes, bytes.size() - at);
      list.push_back({.bytes = bytes.subspan(at, size), .file_offset = file_offset + at});
    }
  }
  const bool is_worth_sharing = helpers != nullptr && list.size() > 1;
  const auto shares = std::make_shared<Shares>(fd, std::move(list));
  if (is_worth_sharing) helpers->Submit([shares] { shares->WriteAll(); });
  shares->WriteAll();
  return shares->Wait();
}

}  // namespace vmfork
