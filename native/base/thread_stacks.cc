// Blocks of stacks.
#include "base/thread_stacks.h"

#include <sys/mman.h>

#include <algorithm>

namespace vmfork {

namespace {
constexpr size_t kGuardBytes = 4096;
constexpr size_t kBlockBytes = ThreadStacks::kStackBytes * ThreadStacks::kStacksPerBlock;
#ifndef MADV_GUARD_INSTALL
constexpr int MADV_GUARD_INSTALL = 102;  // include/uapi/asm-generic/mman-common.h, Linux 6.13
#endif

// Without splitting the mapping, where the kernel can.
Result<void> Guard(std::byte* page) {
  if (::madvise(page, kGuardBytes, MADV_GUARD_INSTALL) == 0) return {};
  if (::mprotect(page, kGuardBytes, PROT_NONE) != 0) return FailErrno("mprotect", "a guard page");
  return {};
}
}  // namespace

Result<std::unique_ptr<ThreadStacks::Block>> ThreadStacks::MakeBlock() {
  auto block = std::make_unique<Block>();
  VMFORK_TRY(mapping, Mapping::Map(kBlockBytes, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0));
  // A huge page would be the memory of eight threads that use two pages each. A kernel without
  // them refuses.
  ::madvise(mapping.Data(), kBlockBytes, MADV_NOHUGEPAGE);
  for (size_t i = kStacksPerBlock; i-- > 0;) {
    VMFORK_CHECK(Guard(mapping.Data() + i * kStackBytes));
    block->free.push_back(i);
  }
  block->mapping = std::move(mapping);
  return block;
}

Result<ThreadStacks::Stack> ThreadStacks::Take() {
  std::lock_guard lock(mutex_);
  auto found =
      std::ranges::find_if(blocks_, [](const auto& block) { return !block->free.empty(); });
  if (found == blocks_.end()) {
    VMFORK_TRY(made, MakeBlock());
    found = blocks_.insert(blocks_.end(), std::move(made));
  }
  Block& block = **found;
  std::byte* start = block.mapping.Data() + block.free.back() * kStackBytes;
  block.free.pop_back();
  return Stack(*this, {start + kGuardBytes, kStackBytes - kGuardBytes});
}

void ThreadStacks::GiveBack(std::span<std::byte> bytes) {
  std::unique_ptr<Block> unused;  // unmapped without the lock
  std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(blocks_, [&bytes](const auto& block) {
    const std::byte* start = block->mapping.Data();
    return bytes.data() >= start && bytes.data() < start + kBlockBytes;
  });
  Block& block = **found;
  block.free.push_back(static_cast<size_t>(bytes.data() - block.mapping.Data()) / kStackBytes);
  // One block is kept, so that a single thread that comes and goes does not map one each time.
  if (block.free.size() < kStacksPerBlock || blocks_.size() == 1) return;
  unused = std::move(*found);
  blocks_.erase(found);
}

size_t ThreadStacks::Blocks() const {
  std::lock_guard lock(mutex_);
  return blocks_.size();
}

}  // namespace vmfork
