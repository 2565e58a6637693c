// BlockMap: of which blocks of a disk something is true. A bit each, in memory that takes room only
// where a bit has been set.
#pragma once

#include <cstdint>

#include "base/mapping.h"
#include "base/result.h"

namespace vmfork {

class BlockMap {
 public:
  static constexpr uint64_t kBlockBytes = 4096;

  struct Run {  // of blocks
    uint64_t first = 0;
    uint64_t end = 0;
  };
  // Blocks that have a byte of the range in them.
  static Run Covering(uint64_t offset_bytes, uint64_t size_bytes);

  // For no block. Errors: kTooManyMaps, kSystem.
  static Result<BlockMap> Make(uint64_t disk_bytes);

  // All may be called on any thread. Whoever finds a block here sees what was written before it was
  // added.
  void Add(Run run);
  void AddAll(const BlockMap& other, Run within);  // of a disk of the same size
  void Remove(Run run);
  // Takes out the first run of blocks that begins in `within`, as far as it lies there; empty when
  // there is none.
  Run TakeFirst(Run within);
  // The first block of `within` that is here, or is not; its end when there is none.
  uint64_t Find(Run within, bool here) const;
  bool Holds(Run run) const { return Find(run, false) == run.end; }
  uint64_t Count(Run within) const;

 private:
  explicit BlockMap(Mapping words) : words_(std::move(words)) {}
  uint64_t* Word(uint64_t block) const;
  uint64_t Load(uint64_t block) const;

  Mapping words_;
};

}  // namespace vmfork
