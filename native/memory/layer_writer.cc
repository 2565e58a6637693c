// Shares of a layer, and who writes them.
#include "memory/layer_writer.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/out_of_memory.h"
#include "memory/page_content.h"

namespace vmfork {

namespace {

// Some hundred microseconds of copying: what one writes more than another at the end.
constexpr uint64_t kShareBytes = 256 << 10;

struct Written {
  Result<void> result;
  std::vector<PageRun> left_zero;
};

Written WriteWithMemory(int fd, const LayerPart& part) {
  Written written;
  uint64_t end = part.file_offset;  // of what has been looked at
  const auto leave_zero = [&](uint64_t up_to) {
    if (up_to > end) written.left_zero.push_back({end, up_to - end});
  };
  written.result = ForEachNonZeroRun(part.file_offset, part.bytes,
                                     [&](uint64_t at, std::span<const std::byte> pages) {
                                       leave_zero(at);
                                       end = at + pages.size();
                                       return WriteFully(fd, pages, at);
                                     });
  leave_zero(part.file_offset + part.bytes.size());
  return written;
}

// Also on threads that belong to others, and with somebody waiting: nothing gets past this.
Written WriteSparse(int fd, const LayerPart& part) {
  Written written;
  if (!TryWithMemory([&] { written = WriteWithMemory(fd, part); }))
    written = {.result = OutOfMemory("write layer"), .left_zero = {}};
  return written;
}

// Outlives the call that made it when a helper comes late, and then has nothing left for it.
class Shares {
 public:
  Shares(int fd, std::vector<LayerPart> shares) : fd_(fd), shares_(std::move(shares)) {}

  void WriteAll() {
    while (const LayerPart* share = Begin()) End(WriteSparse(fd_, *share));
  }

  Result<std::vector<PageRun>> Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return being_written_ == 0; });
    if (error_) return std::unexpected(*error_);
    return std::move(left_zero_);
  }

 private:
  const LayerPart* Begin() {
    std::lock_guard lock(mutex_);
    if (next_ == shares_.size()) return nullptr;
    ++being_written_;
    return &shares_[next_++];
  }

  void End(Written written) {
    std::lock_guard lock(mutex_);
    if (!written.result) {
      next_ = shares_.size();
      error_ = std::move(written.result).error();
    }
    // Of use only where the host can punch holes; what is left out stays a page of zeros.
    TryWithMemory([&] {
      left_zero_.insert(left_zero_.end(), written.left_zero.begin(), written.left_zero.end());
    });
    if (--being_written_ == 0) changed_.notify_all();
  }

  const int fd_;
  const std::vector<LayerPart> shares_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  size_t next_ = 0;
  size_t being_written_ = 0;
  std::optional<Error> error_;
  std::vector<PageRun> left_zero_;
};

}  // namespace

Result<std::vector<PageRun>> WriteLayer(int fd, std::span<const LayerPart> parts,
                                        WorkerPool* helpers) {
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
