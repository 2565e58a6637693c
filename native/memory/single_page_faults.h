// SinglePageFaults: has a fault on a file's mapping bring in the page that was touched, and none of
// its neighbours.
//
// Around a read fault the kernel maps up to 15 more pages that it has at hand (do_fault_around() in
// mm/memory.c). For memory of clones that is a loss: a mapped page that is then written has to be
// taken out of the page tables first, which is announced to every VM of the process, and each page
// that many clones map makes the host's own looks at it longer, which walk all of the mappings.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"

namespace vmfork {

class SinglePageFaults {
 public:
  // Works for memory files since Linux 5.19, for other files since 6.7. Elsewhere, and where
  // userfaultfd(2) is not allowed, it does nothing.
  static SinglePageFaults Open();

  bool AreAvailable() const { return fd_.IsValid(); }
  // For all that is mapped there now. Must be repeated for what is mapped later.
  void Apply(std::byte* start, uint64_t size) const;

 private:
  UniqueFd fd_;
};

}  // namespace vmfork
