// Bits, a word of them at a time.
#include "devices/virtio/block_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>

namespace vmfork {

namespace {

constexpr uint64_t kWordBits = 64;

// The bits of `run` in the word that its first block is in.
uint64_t MaskOf(BlockMap::Run run) {
  const uint64_t skipped = run.first % kWordBits;
  const uint64_t bits = std::min(run.end - run.first, kWordBits - skipped);
  return (bits == kWordBits ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << skipped;
}

uint64_t NextWord(uint64_t block) { return (block / kWordBits + 1) * kWordBits; }

}  // namespace

BlockMap::Run BlockMap::Covering(uint64_t offset_bytes, uint64_t size_bytes) {
  return {offset_bytes / kBlockBytes, (offset_bytes + size_bytes + kBlockBytes - 1) / kBlockBytes};
}

Result<BlockMap> BlockMap::Make(uint64_t disk_bytes) {
  const uint64_t words = Covering(0, disk_bytes).end / kWordBits + 1;
  VMFORK_TRY(mapping, Mapping::Map(words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return BlockMap(std::move(mapping));
}

uint64_t* BlockMap::Word(uint64_t block) const {
  // SAFETY: anonymous memory holds zeros, which are words; it is aligned to a page.
  return reinterpret_cast<uint64_t*>(words_.Data()) + block / kWordBits;
}

uint64_t BlockMap::Load(uint64_t block) const {
  return std::atomic_ref(*Word(block)).load(std::memory_order_acquire);
}

void BlockMap::Add(Run run) {
  for (; run.first < run.end; run.first = NextWord(run.first))
    std::atomic_ref(*Word(run.first)).fetch_or(MaskOf(run), std::memory_order_acq_rel);
}

void BlockMap::AddAll(const BlockMap& other, Run within) {
  for (; within.first < within.end; within.first = NextWord(within.first)) {
    const uint64_t added = other.Load(within.first) & MaskOf(within);
    if (added == 0) continue;  // no memory for words that stay as they are
    std::atomic_ref(*Word(within.first)).fetch_or(added, std::memory_order_acq_rel);
  }
}

void BlockMap::Remove(Run run) {
  for (; run.first < run.end; run.first = NextWord(run.first)) {
    if ((Load(run.first) & MaskOf(run)) == 0) continue;
    std::atomic_ref(*Word(run.first)).fetch_and(~MaskOf(run), std::memory_order_acq_rel);
  }
}

BlockMap::Run BlockMap::TakeFirst(Run within) {
  const uint64_t first = Find(within, true);
  const Run run{first, Find({first, within.end}, false)};
  Remove(run);
  return run;
}

uint64_t BlockMap::Find(Run within, bool here) const {
  for (; within.first < within.end; within.first = NextWord(within.first)) {
    const uint64_t word = here ? Load(within.first) : ~Load(within.first);
    const uint64_t found = word & MaskOf(within);
    if (found != 0)
      return within.first / kWordBits * kWordBits + static_cast<uint64_t>(std::countr_zero(found));
  }
  return within.end;
}

uint64_t BlockMap::Count(Run within) const {
  uint64_t count = 0;
  for (; within.first < within.end; within.first = NextWord(within.first))
    count += static_cast<uint64_t>(std::popcount(Load(within.first) & MaskOf(within)));
  return count;
}

}  // namespace vmfork
