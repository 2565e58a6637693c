// Saved state: the control connection, and who has to be told that its connection is gone.
#include <algorithm>
#include <vector>

#include "devices/virtio/vsock.h"

namespace vmfork {

namespace {
constexpr uint32_t kFirstGuestCid = 3;  // section 5.10.4: 0 to 2 are reserved
// The guest's packets stop at kMaxResets; the host's side may add one a connection.
constexpr size_t kMaxSavedResets = VsockDevice::kMaxResets + 2 * VsockDevice::kMaxConnections;
}  // namespace

void VsockDevice::Save(ByteWriter& out) const {
  out.Put(guest_cid_);
  out.Put(driver_cid_);
  out.Put(next_port_);
  std::vector<PendingReset> resets(resets_.begin(), resets_.end());
  const VsockConnection* control = nullptr;
  for (const auto& [key, connection] : connections_) {
    const bool is_control = key == VsockKey{control_port_, control_guest_port_.value_or(0)} &&
                            control_guest_port_.has_value();
    if (is_control && connection->Whole()) {
      control = connection.get();
    } else if (!connection->Owes(VsockOp::kRequest)) {  // else the guest has not heard of it
      resets.push_back({key, kVsockHostCid, kVsockStream});
    }
  }
  out.Put(static_cast<uint32_t>(resets.size()));
  for (const PendingReset& reset : resets) {
    out.Put(reset.key.host_port);
    out.Put(reset.key.guest_port);
    out.Put(reset.host_cid);
    out.Put(reset.type);
  }
  out.Put<uint8_t>(control != nullptr ? 1 : 0);
  if (control == nullptr) return;
  out.Put(control->Key().guest_port);
  control->Save(out);
}

Result<void> VsockDevice::Restore(ByteReader& in) {
  RemoveAll();
  guest_cid_ = in.Get<uint32_t>();
  driver_cid_ = in.Get<uint32_t>();
  // A program of the guest may still hold sockets of connections that are over. Linux answers a
  // request to the ports of such a one by a reset, so a clone goes on where its parent was.
  next_port_ = in.Get<uint32_t>();
  const auto count = in.Get<uint32_t>();
  if (!in.Ok() || std::min(guest_cid_, driver_cid_) < kFirstGuestCid ||
      next_port_ < kFirstHostPort || next_port_ > kLastHostPort || count > kMaxSavedResets) {
    return vmfork::Fail(ErrorCode::kSnapshotInvalid, "restore vsock", "bad addresses or counts");
  }
  for (uint32_t i = 0; i < count && in.Ok(); ++i) {
    PendingReset reset;
    reset.key.host_port = in.Get<uint32_t>();
    reset.key.guest_port = in.Get<uint32_t>();
    reset.host_cid = in.Get<uint64_t>();
    reset.type = in.Get<uint16_t>();
    resets_.push_back(reset);
  }
  const auto has_control = in.Get<uint8_t>();
  if (!in.Ok() || has_control > 1) {
    return vmfork::Fail(ErrorCode::kSnapshotInvalid, "restore vsock", "truncated");
  }
  if (has_control == 0) return {};
  const auto guest_port = in.Get<uint32_t>();
  control_guest_port_ = guest_port;
  return Add({control_port_, guest_port}).Restore(in);
}

}  // namespace vmfork
