// The connection table and the queues.
#include "devices/virtio/vsock.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "devices/virtio/iovec.h"

namespace vmfork {

namespace {
enum QueueIndex : size_t { kRx = 0, kTx = 1 };  // section 5.10.2; events are never sent
constexpr uint16_t kDataQueueSize = 128, kEventQueueSize = 8;
// Packets handled before other VMs have their turn.
constexpr size_t kTurn = 256;
}  // namespace

VsockDevice::VsockDevice(EventLoop& loop, uint32_t guest_cid, uint32_t control_port)
    : loop_(loop), control_port_(control_port), guest_cid_(guest_cid), driver_cid_(guest_cid) {}

uint32_t VsockDevice::DeviceId() const { return VIRTIO_ID_VSOCK; }

std::vector<uint16_t> VsockDevice::QueueSizes() const {
  return {kDataQueueSize, kDataQueueSize, kEventQueueSize};
}

void VsockDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  const uint64_t cid = guest_cid_;
  CopyConfig(std::as_bytes(std::span(&cid, 1)), offset, data);
}

void VsockDevice::Activate(uint64_t) { driver_cid_ = guest_cid_; }

void VsockDevice::SetCid(uint32_t cid) {
  DeviceLock lock(*context_);
  if (cid == guest_cid_) return;
  guest_cid_ = cid;
  context_->ConfigChanged();
}

// ---- The host's calls ----

void VsockDevice::Connect(uint32_t port, ConnectDone done) {
  DeviceLock lock(*context_);
  if (shut_down_ || connections_.size() >= kMaxConnections) {
    Error error{shut_down_ ? ErrorCode::kGone : ErrorCode::kState, "connect", 0,
                shut_down_ ? "the VM has ended" : "too many connections"};
    return loop_.Post(
        [done = std::move(done), error = std::move(error)] { done(std::unexpected(error)); });
  }
  VsockConnection& connection = Add({PickHostPort(port), port});
  connection.connecting = std::move(done);
  connection.Owe(VsockOp::kRequest);
  Attend(connection);
  ProcessRx();
}

uint32_t VsockDevice::PickHostPort(uint32_t guest_port) {
  // Far more ports than connections: one is free.
  for (;;) {
    const uint32_t port = next_port_;
    next_port_ = port == kLastHostPort ? kFirstHostPort : port + 1;
    if (port != control_port_ && !listeners_.contains(port) &&
        !connections_.contains({port, guest_port})) {
      return port;
    }
  }
}

Result<void> VsockDevice::Listen(uint32_t port, ListenCallback callback) {
  DeviceLock lock(*context_);
  if (!listeners_.emplace(port, std::move(callback)).second) {
    return vmfork::Fail(ErrorCode::kState, "listen", "port " + std::to_string(port) + " is in use");
  }
  return {};
}

void VsockDevice::Unlisten(uint32_t port) {
  DeviceLock lock(*context_);
  listeners_.erase(port);
}

Result<UniqueFd> VsockDevice::AttachControl(VsockSockets sockets, std::span<const std::byte> first,
                                            std::function<void()> on_answer) {
  DeviceLock lock(*context_);
  const auto found = control_guest_port_ ? connections_.find({control_port_, *control_guest_port_})
                                         : connections_.end();
  if (found == connections_.end() || found->second->Attached()) {
    return vmfork::Fail(ErrorCode::kState, "attach control channel", "none waits for a host end");
  }
  if (!sockets.AreValid()) {
    VMFORK_TRY(made, VsockSockets::Make());
    sockets = std::move(made);
  }
  UniqueFd user = found->second->Attach(std::move(sockets));
  found->second->PutFirst(first);
  found->second->on_answer = std::move(on_answer);
  if (context_->Running()) {
    found->second->Resume();
    Attend(*found->second);
  }
  return user;
}

Result<void> VsockDevice::CheckControl() {
  DeviceLock lock(*context_);
  if (control_guest_port_) return {};
  if (control_failure_ == 0)
    return vmfork::Fail(ErrorCode::kGuestIo, "resume control channel", "its queues are broken");
  return FailErrno(control_failure_, "watch control channel",
                   "the user may have too many epoll watches (fs.epoll.max_user_watches)");
}

// ---- The table ----

VsockConnection& VsockDevice::Add(VsockKey key) {
  VsockConnection::Owner& owner = *this;
  // Made first: the table must never hold a key without one, even when there is no memory.
  auto connection = std::make_unique<VsockConnection>(owner, loop_, key);
  return *(connections_[key] = std::move(connection));
}

void VsockDevice::Remove(VsockConnection& connection, ErrorCode code) {
  connection.dead = true;
  if (connection.listed) std::erase(ready_, &connection);
  if (connection.connecting) {
    Error error{code, "connect", 0, "port " + std::to_string(connection.Key().guest_port)};
    loop_.Post([done = std::exchange(connection.connecting, nullptr), error = std::move(error)] {
      done(std::unexpected(error));
    });
  }
  if (connection.Key() == VsockKey{control_port_, control_guest_port_.value_or(0)}) {
    control_guest_port_.reset();
    control_failure_ = connection.Failure();
  }
  auto owned = std::move(connections_.extract(connection.Key()).mapped());
  if (code != ErrorCode::kGone && draining_.size() < kMaxConnections) {
    connection.Orphan();
    connection.draining = connection.HasUndelivered();
  }
  if (!connection.draining) return Close(std::move(owned));
  connection.Watch();
  draining_[&connection] = std::move(owned);
}

void VsockDevice::Drain(VsockConnection& connection, uint32_t events) {
  connection.TakeEvents(events);
  connection.Watch();
  if (connection.HasUndelivered()) return;
  connection.draining = false;
  Close(std::move(draining_.extract(&connection).mapped()));
}

// On the loop's thread, where no event of it can be in progress: this may be a vCPU's thread, or
// inside the connection's own handler.
void VsockDevice::Close(std::shared_ptr<VsockConnection> connection) {
  loop_.Post([connection = std::move(connection)] { connection->Close(); });
}

void VsockDevice::RemoveAll() {
  while (!connections_.empty()) Remove(*connections_.begin()->second, ErrorCode::kGone);
  for (auto& [key, connection] : draining_) {
    connection->draining = false;
    Close(std::move(connection));
  }
  draining_.clear();
  resets_.clear();
  tx_held_ = false;
}

// Resets the connection.
void VsockDevice::Fail(VsockConnection& connection) {
  resets_.push_back({connection.Key(), kVsockHostCid, kVsockStream});
  Remove(connection, ErrorCode::kConnectionRefused);
}

// To be called after anything happened to a connection; it may be gone afterwards.
void VsockDevice::Attend(VsockConnection& connection) {
  connection.Watch();
  if (connection.Over()) return Fail(connection);
  if (connection.listed || !connection.HasPacket()) return;
  connection.listed = true;
  ready_.push_back(&connection);
}

void VsockDevice::OnSocket(VsockConnection& connection, uint32_t events) {
  DeviceLock lock(*context_);
  if (connection.draining) return Drain(connection, events);
  if (connection.dead) return;
  if (!context_->Running()) return connection.ForgetWatch();  // Resume() looks again
  connection.TakeEvents(events);
  Attend(connection);
  ProcessRx();
}

// ---- From the guest ----

void VsockDevice::ProcessQueues() {
  if (shut_down_) return;
  ProcessTx();
  ProcessRx();
}

void VsockDevice::ProcessTx() {
  Virtqueue& queue = context_->Queue(kTx);
  size_t done = 0;
  do {
    // Each packet may earn one reset.
    while (resets_.size() < kMaxResets && queue.Pop(tx_chain_)) {
      if (const auto header = ReadVsockHeader(tx_chain_)) HandlePacket(*header, tx_chain_.readable);
      queue.AddUsed(tx_chain_.head, 0);
      if (++done >= kTurn) return context_->ScheduleWork();
    }
    tx_held_ = resets_.size() >= kMaxResets;
    if (tx_held_) return;
    if (++done >= kTurn) return context_->ScheduleWork();
  } while (queue.EnableNotification());
}

void VsockDevice::ReplyReset(const VsockHeader& header) {
  if (header.op == static_cast<uint16_t>(VsockOp::kReset)) return;
  resets_.push_back({{header.dst_port, header.src_port}, header.dst_cid, header.type});
}

void VsockDevice::HandlePacket(const VsockHeader& header, std::span<const iovec> packet) {
  if (header.src_cid != driver_cid_ && header.src_cid != guest_cid_) return;
  driver_cid_ = static_cast<uint32_t>(header.src_cid);
  // Section 5.10.6.4: what has no socket is answered by a reset.
  if (header.type != kVsockStream || header.dst_cid != kVsockHostCid) return ReplyReset(header);
  const auto found = connections_.find({header.dst_port, header.src_port});
  if (found != connections_.end()) return HandleForConnection(*found->second, header, packet);
  if (header.op == static_cast<uint16_t>(VsockOp::kRequest)) return HandleRequest(header);
  ReplyReset(header);
}

void VsockDevice::HandleRequest(const VsockHeader& header) {
  const auto listener = listeners_.find(header.dst_port);
  if (listener == listeners_.end() || connections_.size() >= kMaxConnections) {
    return ReplyReset(header);
  }
  VsockConnection& connection = Add({header.dst_port, header.src_port});
  auto user = connection.Attach();
  if (!user) return Fail(connection);
  if (header.dst_port == control_port_) control_guest_port_ = header.src_port;
  connection.TakeCredit(header);
  connection.Owe(VsockOp::kResponse);
  Attend(connection);
  loop_.Post([callback = listener->second, guest_port = header.src_port,
              user = std::make_shared<UniqueFd>(std::move(*user))] {
    callback(guest_port, std::move(*user));
  });
}

void VsockDevice::HandleForConnection(VsockConnection& connection, const VsockHeader& header,
                                      std::span<const iovec> packet) {
  connection.TakeCredit(header);
  switch (static_cast<VsockOp>(header.op)) {
    case VsockOp::kResponse: {
      if (!connection.connecting || connection.Owes(VsockOp::kRequest)) return Fail(connection);
      auto user = connection.Attach();
      loop_.Post(
          [done = std::exchange(connection.connecting, nullptr),
           user = std::make_shared<Result<UniqueFd>>(std::move(user))] { done(std::move(*user)); });
      if (!connection.Attached()) return Fail(connection);
      break;
    }
    case VsockOp::kReset:
      return Remove(connection, ErrorCode::kConnectionRefused);
    case VsockOp::kShutdown:
      connection.TakeShutdown(header.flags);
      break;
    case VsockOp::kData:
      if (!connection.TakeData(packet, header.length)) return Fail(connection);
      if (connection.on_answer) std::exchange(connection.on_answer, nullptr)();
      break;
    case VsockOp::kCreditUpdate:
      break;
    case VsockOp::kCreditRequest:
      connection.Owe(VsockOp::kCreditUpdate);
      break;
    case VsockOp::kRequest:
      if (!connection.EndTold()) return Fail(connection);
      // The guest has reused the port of a stream that was over, before its reset got here.
      Remove(connection, ErrorCode::kConnectionRefused);
      return HandleRequest(header);
    default:
      return Fail(connection);
  }
  Attend(connection);
}

// ---- To the guest ----

void VsockDevice::ProcessRx() {
  if (!context_->Running()) return;
  Virtqueue& queue = context_->Queue(kRx);
  for (size_t done = 0; !resets_.empty() || !ready_.empty(); ++done) {
    if (done >= kTurn) return context_->ScheduleWork();
    // Without a buffer all waits, until the driver adds one and notifies.
    if (!queue.Pop(rx_chain_) && !(queue.EnableNotification() && queue.Pop(rx_chain_))) return;
    if (rx_chain_.writable_bytes <= kVsockHeaderBytes || !rx_chain_.readable.empty()) {
      return queue.MarkBroken("an rx buffer that cannot hold a packet");
    }
    if (!FillBuffer(queue)) queue.UndoPop();
    if (tx_held_ && resets_.size() < kMaxResets / 2) {
      tx_held_ = false;
      context_->ScheduleWork();
    }
  }
}

// False: no packet was there after all.
bool VsockDevice::FillBuffer(Virtqueue& queue) {
  VsockHeader header;
  if (!resets_.empty()) {
    const PendingReset& reset = resets_.front();
    header = {.src_cid = reset.host_cid,
              .src_port = reset.key.host_port,
              .dst_port = reset.key.guest_port,
              .type = reset.type,
              .op = static_cast<uint16_t>(VsockOp::kReset)};
    resets_.pop_front();
    PutPacket(queue, header);
    return true;
  }
  VsockConnection& connection = *ready_.front();
  ready_.pop_front();
  connection.listed = false;
  const bool found = NextPacket(connection, header);
  if (found) PutPacket(queue, header);
  Attend(connection);
  return found;
}

bool VsockDevice::NextPacket(VsockConnection& connection, VsockHeader& header) {
  if (!connection.NextControl(header) && connection.ReadData(rx_chain_.writable, header) == 0 &&
      !connection.NextControl(header) && !connection.NextCreditUpdate(header)) {
    return false;
  }
  header.src_cid = kVsockHostCid;
  return true;
}

void VsockDevice::PutPacket(Virtqueue& queue, VsockHeader& header) {
  header.dst_cid = driver_cid_;
  CopyToIovecs(rx_chain_.writable, std::as_bytes(std::span(&header, 1)));
  queue.AddUsed(rx_chain_.head, static_cast<uint32_t>(kVsockHeaderBytes + header.length));
}

// ---- Lifecycle ----

void VsockDevice::Reset() { RemoveAll(); }

void VsockDevice::Resume() {
  std::vector<VsockConnection*> all;
  all.reserve(connections_.size());
  for (auto& [key, connection] : connections_) all.push_back(connection.get());
  for (VsockConnection* connection : all) {
    connection->Resume();
    Attend(*connection);
  }
  ProcessQueues();
}

void VsockDevice::Shutdown() {
  {
    DeviceLock lock(*context_);
    shut_down_ = true;
    RemoveAll();
  }
  loop_.Run([] {});  // whatever was posted has run
}

}  // namespace vmfork
