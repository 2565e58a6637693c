// ThreadStacks: stacks for threads that come by the hundred. One that pthread_create() makes costs
// a mapping and a change of its protection, each of which takes the process's memory lock and the
// second of which is announced to every VM of the process (mm/mprotect.c), and is two mappings for
// as long as it exists. Here many share one.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"

namespace vmfork {

class ThreadStacks {
 public:
  // Each with its guard page: enough for device models, which do not recurse; the embedding
  // program's thread-local storage also lives in it.
  static constexpr size_t kStackBytes = 256 << 10;
  static constexpr size_t kStacksPerBlock = 64;

  // One of them, until this ends; its thread must have been joined then.
  class Stack {
   public:
    Stack() = default;
    Stack(Stack&& other) noexcept { *this = std::move(other); }
    Stack& operator=(Stack&& other) noexcept {
      std::swap(owner_, other.owner_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Stack() {
      if (owner_ != nullptr) owner_->GiveBack(bytes_);
    }
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    // What the thread may use, above a guard page. Empty: none.
    std::span<std::byte> Bytes() const { return bytes_; }

   private:
    friend class ThreadStacks;
    Stack(ThreadStacks& owner, std::span<std::byte> bytes) : owner_(&owner), bytes_(bytes) {}
    ThreadStacks* owner_ = nullptr;
    std::span<std::byte> bytes_;
  };

  // All must have been given back before this ends. Errors: kTooManyMaps, kNoMemory, kSystem.
  Result<Stack> Take();
  size_t Blocks() const;

 private:
  struct Block {
    Mapping mapping;
    std::vector<size_t> free;  // indices; taken from the end, so that what is warm is used again
  };
  static Result<std::unique_ptr<Block>> MakeBlock();
  void GiveBack(std::span<std::byte> bytes);

  mutable std::mutex mutex_;                    // guards all below
  std::vector<std::unique_ptr<Block>> blocks_;  // the first that has a free one is used
};

}  // namespace vmfork
