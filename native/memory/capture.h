// Capture: turns what a VM has written into a new layer, and view + layer into a new image.
#pragma once

#include <cstddef>
#include <memory>

#include "base/result.h"
#include "base/worker_pool.h"
#include "memory/private_view.h"

namespace vmfork {

// Extents of an image that was captured: so few that a thousand clones of it stay below what a
// process may map by default (vm.max_map_count, 65,530).
inline constexpr size_t kMaxExtents = 48;

// The image that equals what `view` shows now. Only pages the VM owns are copied, into a new memfd
// that is then sealed; pages that are all zero become holes. Nobody may write the view meanwhile.
// The view itself is left as it is. Idle threads of `helpers` take a share of the copying.
Result<std::shared_ptr<const Image>> CaptureImage(const PrivateView& view,
                                                  WorkerPool* helpers = nullptr);

}  // namespace vmfork
