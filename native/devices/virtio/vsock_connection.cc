// Credit, data and half-closes of one stream.
#include "devices/virtio/vsock_connection.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "devices/virtio/iovec.h"

namespace vmfork {

namespace {
// A credit update is a packet, and each costs the guest as much as 4 KiB of data: one is sent when
// the guest has less than half of the window left and this much of it has come free.
constexpr uint32_t kWorthTelling = VsockConnection::kBufAlloc / 4;

bool WouldBlock(int error) { return error == EAGAIN || error == EINTR; }

bool HungUp(int fd) {
  pollfd poll{.fd = fd, .events = 0, .revents = 0};
  return ::poll(&poll, 1, 0) == 1 && (poll.revents & POLLHUP) != 0;
}
}  // namespace

UniqueFd VsockConnection::Attach(VsockSockets sockets) {
  socket_ = std::move(sockets.device);
  return std::move(sockets.user);
}

Result<UniqueFd> VsockConnection::Attach() {
  VMFORK_TRY(sockets, VsockSockets::Make());
  return Attach(std::move(sockets));
}

void VsockConnection::Close() {
  if (added_) loop_.Remove(socket_.Get(), this);
  added_ = false;
  socket_.Reset();
}

void VsockConnection::TakeEvents(uint32_t events) {
  watching_ = false;
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) readable_ = !read_all_;
  if ((events & EPOLLHUP) != 0 && read_all_) DropUser();
  Flush();
}

void VsockConnection::Resume() {
  readable_ = Attached() && !read_all_;
  Flush();
}

void VsockConnection::Watch() {
  if (!Attached() || failure_ != 0) return;
  uint32_t wanted = 0;
  if (!readable_ && !read_all_ && Credit() > 0) wanted |= EPOLLIN;
  if (PendingBytes() > 0) wanted |= EPOLLOUT;
  // After a half-close: only whether the user goes away altogether.
  const bool for_hang_up = read_all_ && user_reads_;
  if (wanted == 0 && !for_hang_up) return;
  if (watching_ && (wanted & ~watched_) == 0) return;
  const uint32_t events = wanted | EPOLLONESHOT;
  const auto result =
      added_ ? loop_.Modify(socket_.Get(), events, this) : loop_.Add(socket_.Get(), events, this);
  if (!result) {
    failure_ = result.error().error_number;
    return;
  }
  added_ = watching_ = true;
  watched_ = wanted;
}

void VsockConnection::TakeCredit(const VsockHeader& header) {
  peer_buf_alloc_ = header.buf_alloc;
  peer_fwd_cnt_ = header.fwd_cnt;
}

uint32_t VsockConnection::Credit() const {
  // A guest that claims to have consumed what was never sent only makes this large, so it gets
  // none.
  const uint32_t in_flight = sent_ - peer_fwd_cnt_;
  return in_flight >= peer_buf_alloc_ ? 0 : peer_buf_alloc_ - in_flight;
}

bool VsockConnection::CanRead() const {
  return readable_ && !connecting && failure_ == 0 && Credit() > 0;
}

bool VsockConnection::TakeData(std::span<const iovec> packet, uint32_t length) {
  if (connecting || (guest_shutdown_ & kVsockNoSend) != 0) return false;
  // Never more than it was told of: so pending_ is bounded, and nothing here can underflow.
  if (length > kBufAlloc - (received_ - told_forwarded_)) return false;
  received_ += length;
  size_t sent = 0;
  if (PendingBytes() == 0 && Attached() && user_reads_) {
    CutIovecs(packet, kVsockHeaderBytes, length, parts_);
    sent = SendNow(parts_);
    forwarded_ += static_cast<uint32_t>(sent);
  }
  if (!user_reads_) {
    forwarded_ = received_;
  } else if (sent < length) {
    CutIovecs(packet, kVsockHeaderBytes + sent, length - sent, parts_);
    Keep(parts_);
  }
  OweCreditIfWorth();
  return true;
}

// Returns how much the socket took; finds out that the user is gone.
size_t VsockConnection::SendNow(std::span<const iovec> parts) {
  if (parts.empty()) return 0;
  msghdr message{};
  // SAFETY: sendmsg() only reads the list.
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = parts.size();
  const ssize_t sent = ::sendmsg(socket_.Get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<size_t>(sent);
  if (!WouldBlock(errno)) {
    // What the user wrote before it went may still be in our socket: only this direction is over.
    user_reads_ = false;
    TellShutdown(kVsockNoReceive);
  }
  return 0;
}

void VsockConnection::Keep(std::span<const iovec> parts) {
  // Moved only when at least half is used up: each byte moves once on average.
  if (pending_start_ > 0 && pending_start_ >= PendingBytes()) {
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(pending_start_));
    pending_start_ = 0;
  }
  for (const iovec& part : parts) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    pending_.insert(pending_.end(), bytes, bytes + part.iov_len);
  }
}

void VsockConnection::Flush() {
  if (!Attached()) return;
  while (PendingBytes() > 0 && user_reads_) {
    const iovec part{pending_.data() + pending_start_, PendingBytes()};
    const size_t sent = SendNow(std::span(&part, 1));
    if (sent == 0) break;
    pending_start_ += sent;
    forwarded_ += static_cast<uint32_t>(sent);
  }
  if (!user_reads_) forwarded_ = received_;
  if (PendingBytes() == 0 || !user_reads_) {
    pending_ = {};  // most streams never need it again
    pending_start_ = 0;
    if ((guest_shutdown_ & kVsockNoSend) != 0) ::shutdown(socket_.Get(), SHUT_WR);
  }
  OweCreditIfWorth();
}

void VsockConnection::OweCreditIfWorth() {
  const uint32_t window = kBufAlloc - (received_ - told_forwarded_);
  if (forwarded_ - told_forwarded_ >= kWorthTelling && window < kBufAlloc / 2) {
    Owe(VsockOp::kCreditUpdate);
  }
}

void VsockConnection::TakeShutdown(uint32_t flags) {
  guest_shutdown_ |= flags & kVsockNoMore;
  if ((flags & kVsockNoReceive) != 0 && Attached()) {
    ::shutdown(socket_.Get(), SHUT_RD);  // the user's next write fails
    read_all_ = true;
    readable_ = false;
  }
  Flush();
}

void VsockConnection::Orphan() {
  owed_ = 0;
  TakeShutdown(kVsockNoMore);
}

void VsockConnection::TellShutdown(uint32_t flags) {
  if ((flags & ~host_shutdown_) == 0) return;
  host_shutdown_ |= flags;
  Owe(VsockOp::kShutdown);
}

void VsockConnection::DropUser() {
  user_reads_ = false;
  TellShutdown(kVsockNoMore);
}

void VsockConnection::FillHeader(VsockHeader& header, VsockOp op, uint32_t length) {
  header = {.src_port = key_.host_port,
            .dst_port = key_.guest_port,
            .length = length,
            .type = kVsockStream,
            .op = static_cast<uint16_t>(op),
            .flags = op == VsockOp::kShutdown ? host_shutdown_ : 0,
            .buf_alloc = kBufAlloc,
            .fwd_cnt = forwarded_};
  told_forwarded_ = forwarded_;
  owed_ &= ~(BitOf(op) | BitOf(VsockOp::kCreditUpdate));
}

bool VsockConnection::NextControl(VsockHeader& header) {
  for (const VsockOp op : {VsockOp::kRequest, VsockOp::kResponse, VsockOp::kShutdown}) {
    if (!Owes(op)) continue;
    FillHeader(header, op, 0);
    return true;
  }
  return false;
}

bool VsockConnection::NextCreditUpdate(VsockHeader& header) {
  if (!Owes(VsockOp::kCreditUpdate)) return false;
  FillHeader(header, VsockOp::kCreditUpdate, 0);
  return true;
}

uint32_t VsockConnection::ReadData(std::span<const iovec> buffer, VsockHeader& header) {
  if (!CanRead()) return 0;
  const size_t room = CutIovecs(buffer, kVsockHeaderBytes, Credit(), parts_);
  if (room == 0) return 0;
  const bool is_first = !first_.empty();
  const ssize_t got = is_first
                          ? static_cast<ssize_t>(TakeFirst(room))
                          : ::readv(socket_.Get(), parts_.data(), static_cast<int>(parts_.size()));
  if (got > 0) {
    const auto length = static_cast<uint32_t>(got);
    // Whether there is more in the socket, the loop will say.
    readable_ = is_first ? !first_.empty() : length == room;
    sent_ += length;
    FillHeader(header, VsockOp::kData, length);
    return length;
  }
  readable_ = false;
  if (got == 0) {
    read_all_ = true;
    TellShutdown(kVsockNoSend);
    // Closed, not only half-closed: one packet tells the guest both.
    if (HungUp(socket_.Get())) DropUser();
  } else if (!WouldBlock(errno)) {
    failure_ = errno;  // ECONNRESET: the user closed without reading all that there was
  }
  return 0;
}

size_t VsockConnection::TakeFirst(size_t room) {
  const size_t length = std::min(room, first_.size());
  CopyToIovecs(parts_, std::span(first_).first(length));
  first_.erase(first_.begin(), first_.begin() + static_cast<ptrdiff_t>(length));
  return length;
}

void VsockConnection::Save(ByteWriter& out) const {
  out.Put(owed_);
  for (const uint32_t counter :
       {sent_, peer_fwd_cnt_, peer_buf_alloc_, received_, forwarded_, told_forwarded_}) {
    out.Put(counter);
  }
  out.PutBlock(std::span(pending_).subspan(pending_start_));
}

Result<void> VsockConnection::Restore(ByteReader& in) {
  owed_ = in.Get<uint32_t>();
  for (uint32_t* counter :
       {&sent_, &peer_fwd_cnt_, &peer_buf_alloc_, &received_, &forwarded_, &told_forwarded_}) {
    *counter = in.Get<uint32_t>();
  }
  const auto pending = in.GetBlock();
  const uint32_t may_owe = BitOf(VsockOp::kResponse) | BitOf(VsockOp::kCreditUpdate);
  if (!in.Ok() || (owed_ & ~may_owe) != 0 || received_ - told_forwarded_ > kBufAlloc ||
      forwarded_ - told_forwarded_ > received_ - told_forwarded_ ||
      received_ - forwarded_ != pending.size()) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore vsock", "impossible counters");
  }
  pending_.assign(pending.begin(), pending.end());
  return {};
}

}  // namespace vmfork
