// Closing a descriptor.
#include "base/unique_fd.h"

#include <unistd.h>

namespace vmfork {

void UniqueFd::Reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

}  // namespace vmfork
