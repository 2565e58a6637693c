// VsockSockets: the two ends of a Unix stream that carries one vsock connection on the host.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmfork {

struct VsockSockets {
  static constexpr int kBufferBytes = 256 << 10;

  UniqueFd device;
  UniqueFd user;

  // New ones, non-blocking and close-on-exec. Errors: kTooManyFiles, kSystem.
  static Result<VsockSockets> Make();
  bool AreValid() const { return device.IsValid(); }
};

}  // namespace vmfork
