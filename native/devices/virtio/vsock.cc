#include "devices/virtio/vsock.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "devices/virtio/iovec.h"

namespace vmfork {

namespace {
constexpr uint16_t kStream = 1;
enum Op : uint16_t { kRequest = 1, kResponse = 2, kRst = 3, kShutdown = 4, kRw = 5, kCreditUpdate = 6, kCreditRequest = 7 };
constexpr uint32_t kShutReceive = 1, kShutSend = 2;
constexpr uint32_t kBufAlloc = 256 << 10;
constexpr uint64_t kHostCid = 2;
constexpr size_t kMaxConnections = 1024, kMaxControl = 4096;
constexpr size_t kHeaderBytes = sizeof(VsockHeader);
static_assert(kHeaderBytes == 44);
}  // namespace

struct VsockDevice::Connection : EventHandler {
  explicit Connection(VsockDevice& device) : device(device) {}
  void OnEvents(uint32_t events) override {
    DeviceLock lock(*device.context_);
    device.OnSocket(*this, events);
  }
  VsockDevice& device;
  uint32_t host_port = 0, guest_port = 0;
  UniqueFd fd;
  ConnectDone connecting;
  uint32_t watched = 0;
  bool added = false, readable = false, eof = false, dead = false;
  bool guest_sent_all = false, closing = false, credit_queued = false;
  uint32_t peer_buf_alloc = 0, peer_fwd_cnt = 0, tx_cnt = 0;
  uint32_t rx_cnt = 0, fwd_cnt = 0, told_fwd_cnt = 0;
  std::vector<std::byte> pending;
  size_t pending_start = 0;

  uint32_t Credit() const {
    const uint32_t used = tx_cnt - peer_fwd_cnt;
    return used > peer_buf_alloc ? 0 : peer_buf_alloc - used;
  }
  size_t Pending() const { return pending.size() - pending_start; }
};

VsockDevice::VsockDevice(EventLoop& loop, uint32_t guest_cid, uint32_t control_port)
    : loop_(loop), guest_cid_(guest_cid), control_port_(control_port) {}
VsockDevice::~VsockDevice() = default;

void VsockDevice::ReadConfig(uint64_t offset, std::span<std::byte> data) {
  const uint64_t cid = guest_cid_;
  CopyConfig(std::as_bytes(std::span(&cid, 1)), offset, data);
}

void VsockDevice::SetCid(uint32_t cid) {
  DeviceLock lock(*context_);
  if (cid == guest_cid_) return;
  guest_cid_ = cid;
  context_->ConfigChanged();
}

Result<UniqueFd> VsockDevice::AttachSocket(Connection& connection) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) return FailErrno("socketpair");
  connection.fd = UniqueFd(pair[0]);
  UniqueFd user(pair[1]);
  for (int fd : pair) {
    const int bytes = kBufAlloc;
    ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
  UpdateInterest(connection);
  return user;
}

void VsockDevice::Connect(uint32_t port, ConnectDone done) {
  DeviceLock lock(*context_);
  if (shut_down_ || connections_.size() >= kMaxConnections) {
    return loop_.Post([done] { done(Fail(ErrorCode::kGone, "connect", "too many connections or no VM")); });
  }
  while (connections_.contains({next_port_, port})) ++next_port_;
  auto connection = std::make_unique<Connection>(*this);
  connection->host_port = next_port_++;
  connection->guest_port = port;
  connection->connecting = std::move(done);
  QueueControl(connection->host_port, port, kRequest, 0, connection.get());
  const Key key{connection->host_port, port};
  connections_[key] = std::move(connection);
  PumpRx();
}

Result<void> VsockDevice::Listen(uint32_t port, ListenCallback callback) {
  DeviceLock lock(*context_);
  if (!listeners_.emplace(port, std::move(callback)).second) return Fail(ErrorCode::kState, "listen", "port in use");
  return {};
}

void VsockDevice::Unlisten(uint32_t port) {
  DeviceLock lock(*context_);
  listeners_.erase(port);
}

Result<UniqueFd> VsockDevice::AttachControl() {
  DeviceLock lock(*context_);
  for (auto& [key, connection] : connections_) {
    if (key.first == control_port_) return AttachSocket(*connection);
  }
  return Fail(ErrorCode::kState, "attach control channel", "the snapshot has none");
}

void VsockDevice::QueueControl(uint32_t host_port, uint32_t guest_port, uint16_t op, uint32_t flags, const Connection* connection) {
  if (control_.size() >= kMaxControl) return;
  VsockHeader header;
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid_;
  header.src_port = host_port;
  header.dst_port = guest_port;
  header.type = kStream;
  header.op = op;
  header.flags = flags;
  header.buf_alloc = kBufAlloc;
  header.fwd_cnt = connection != nullptr ? connection->fwd_cnt : 0;
  control_.push_back(header);
}

void VsockDevice::SendReset(const VsockHeader& header) {
  if (header.op != kRst) QueueControl(header.dst_port, header.src_port, kRst, 0, nullptr);
}

void VsockDevice::Remove(const Key& key) {
  auto it = connections_.find(key);
  if (it == connections_.end()) return;
  Connection& c = *it->second;
  c.dead = true;
  if (c.added) loop_.Remove(c.fd.Get(), &c);
  c.fd.Reset();
  if (c.connecting) {
    loop_.Post([done = std::move(c.connecting), port = c.guest_port] {
      done(Fail(ErrorCode::kConnectionRefused, "connect", "port " + std::to_string(port)));
    });
  }
  graveyard_.push_back(std::move(it->second));
  connections_.erase(it);
  loop_.Post([dead = std::make_shared<std::vector<std::unique_ptr<Connection>>>(std::move(graveyard_))] {});
  graveyard_.clear();
}

void VsockDevice::UpdateInterest(Connection& c) {
  if (!c.fd.IsValid() || !context_->Running()) return;
  uint32_t wanted = 0;
  if (!c.eof && !c.readable && c.Credit() > 0) wanted |= EPOLLIN;
  if (c.Pending() > 0) wanted |= EPOLLOUT;
  if (wanted == c.watched && c.added == (wanted != 0)) return;
  c.watched = wanted;
  if (wanted == 0) {
    if (c.added) loop_.Remove(c.fd.Get(), &c);
    c.added = false;
  } else if (c.added) {
    std::ignore = loop_.Modify(c.fd.Get(), wanted, &c);
  } else {
    c.added = loop_.Add(c.fd.Get(), wanted, &c).has_value();
  }
}

void VsockDevice::OnSocket(Connection& c, uint32_t events) {
  if (c.dead || !context_->Running()) {
    if (!c.dead) {
      if (c.added) loop_.Remove(c.fd.Get(), &c);
      c.added = false;
    }
    return;
  }
  if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0 && c.Pending() > 0) {
    FlushToSocket(c);
    if (c.dead) return PumpRx();
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP)) != 0) c.readable = true;
  UpdateInterest(c);
  PumpRx();
}

void VsockDevice::FlushToSocket(Connection& c) {
  while (c.Pending() > 0) {
    const ssize_t n = ::send(c.fd.Get(), c.pending.data() + c.pending_start, c.Pending(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      QueueControl(c.host_port, c.guest_port, kRst, 0, &c);
      return Remove({c.host_port, c.guest_port});
    }
    c.pending_start += static_cast<size_t>(n);
    c.fwd_cnt += static_cast<uint32_t>(n);
  }
  if (c.Pending() == 0) {
    c.pending.clear();
    c.pending_start = 0;
    if (c.guest_sent_all) ::shutdown(c.fd.Get(), SHUT_WR);
    if (c.closing) {
      QueueControl(c.host_port, c.guest_port, kRst, 0, &c);
      return Remove({c.host_port, c.guest_port});
    }
  }
  UpdateCredit(c);
  UpdateInterest(c);
}

void VsockDevice::UpdateCredit(Connection& c) {
  if (kBufAlloc - (c.rx_cnt - c.told_fwd_cnt) < kBufAlloc / 2 && c.fwd_cnt != c.told_fwd_cnt) {
    QueueControl(c.host_port, c.guest_port, kCreditUpdate, 0, &c);
    c.told_fwd_cnt = c.fwd_cnt;
  }
}

void VsockDevice::ProcessQueues() {
  HandleTx();
  PumpRx();
  DescriptorChain chain;
  (void)chain;
}

void VsockDevice::Resume() {
  for (auto& [key, c] : connections_) c->readable = c->fd.IsValid() && !c->eof;
  ProcessQueues();
  for (auto& [key, c] : connections_) UpdateInterest(*c);
}

void VsockDevice::HandleTx() {
  Virtqueue& queue = context_->Queue(1);
  DescriptorChain chain;
  do {
    while (queue.Pop(chain)) {
      VsockHeader header;
      if (CopyFromIovecs(chain.readable, std::as_writable_bytes(std::span(&header, 1))) &&
          header.length <= chain.readable_bytes - kHeaderBytes) {
        HandlePacket(header, chain);
      }
      queue.AddUsed(chain.head, 0);
    }
  } while (queue.EnableNotification());
}

void VsockDevice::HandleRequest(const VsockHeader& h) {
  auto listener = listeners_.find(h.dst_port);
  if (listener == listeners_.end() || connections_.size() >= kMaxConnections) return SendReset(h);
  auto connection = std::make_unique<Connection>(*this);
  connection->host_port = h.dst_port;
  connection->guest_port = h.src_port;
  connection->peer_buf_alloc = h.buf_alloc;
  connection->peer_fwd_cnt = h.fwd_cnt;
  auto user = AttachSocket(*connection);
  if (!user) return SendReset(h);
  QueueControl(h.dst_port, h.src_port, kResponse, 0, connection.get());
  connections_[{h.dst_port, h.src_port}] = std::move(connection);
  loop_.Post([callback = listener->second, port = h.src_port,
              fd = std::make_shared<UniqueFd>(std::move(*user))] { callback(port, std::move(*fd)); });
}

void VsockDevice::HandlePacket(const VsockHeader& h, const DescriptorChain& chain) {
  if (h.type != kStream || h.dst_cid != kHostCid) return SendReset(h);
  auto it = connections_.find({h.dst_port, h.src_port});
  if (it == connections_.end()) return h.op == kRequest ? HandleRequest(h) : SendReset(h);
  Connection& c = *it->second;
  const Key key = it->first;
  c.peer_buf_alloc = h.buf_alloc;
  c.peer_fwd_cnt = h.fwd_cnt;
  switch (h.op) {
    case kResponse: {
      if (!c.connecting) break;
      auto done = std::exchange(c.connecting, nullptr);
      auto user = AttachSocket(c);
      loop_.Post([done, user = std::make_shared<Result<UniqueFd>>(std::move(user))] { done(std::move(*user)); });
      break;
    }
    case kRst: return Remove(key);
    case kShutdown:
      if ((h.flags & kShutSend) != 0) c.guest_sent_all = true;
      if ((h.flags & (kShutSend | kShutReceive)) == (kShutSend | kShutReceive)) c.closing = true;
      return FlushToSocket(c);
    case kRw: {
      if (c.connecting || c.guest_sent_all || h.length > kBufAlloc - (c.rx_cnt - c.fwd_cnt)) {
        SendReset(h);
        return Remove(key);
      }
      const size_t old = c.pending.size();
      c.pending.resize(old + h.length);
      std::vector<iovec> payload;
      CutIovecs(chain.readable, kHeaderBytes, h.length, payload);
      CopyFromIovecs(payload, std::span(c.pending).subspan(old));
      c.rx_cnt += h.length;
      return FlushToSocket(c);
    }
    case kCreditUpdate: break;
    case kCreditRequest: QueueControl(c.host_port, c.guest_port, kCreditUpdate, 0, &c); break;
    default: SendReset(h); return Remove(key);
  }
  UpdateInterest(c);
}

void VsockDevice::PumpRx() {
  if (!context_->Running()) return;
  Virtqueue& queue = context_->Queue(0);
  DescriptorChain chain;
  for (;;) {
    while (!control_.empty()) {
      if (!queue.Pop(chain) && !(queue.EnableNotification() && queue.Pop(chain))) return;
      CopyToIovecs(chain.writable, std::as_bytes(std::span(&control_.front(), 1)));
      control_.pop_front();
      queue.AddUsed(chain.head, kHeaderBytes);
    }
    bool progress = false;
    for (auto& [key, connection] : connections_) {
      if (connection->readable && connection->Credit() > 0 && !connection->connecting) progress |= SendData(*connection);
    }
    if (!progress && control_.empty()) return;
  }
}

bool VsockDevice::SendData(Connection& c) {
  Virtqueue& queue = context_->Queue(0);
  DescriptorChain chain;
  if (!queue.Pop(chain) && !(queue.EnableNotification() && queue.Pop(chain))) return false;
  std::vector<iovec> payload;
  const size_t room = CutIovecs(chain.writable, kHeaderBytes, c.Credit(), payload);
  const ssize_t n = room == 0 ? -1 : ::readv(c.fd.Get(), payload.data(), static_cast<int>(payload.size()));
  if (n <= 0) {
    queue.UndoPop();
    c.readable = false;
    if (n == 0) {
      c.eof = true;
      QueueControl(c.host_port, c.guest_port, kShutdown, kShutSend, &c);
    }
    UpdateInterest(c);
    return n == 0;
  }
  VsockHeader header;
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid_;
  header.src_port = c.host_port;
  header.dst_port = c.guest_port;
  header.length = static_cast<uint32_t>(n);
  header.type = kStream;
  header.op = kRw;
  header.buf_alloc = kBufAlloc;
  header.fwd_cnt = c.fwd_cnt;
  c.told_fwd_cnt = c.fwd_cnt;
  c.tx_cnt += header.length;
  CopyToIovecs(chain.writable, std::as_bytes(std::span(&header, 1)));
  queue.AddUsed(chain.head, static_cast<uint32_t>(kHeaderBytes + header.length));
  if (header.length < room) c.readable = false;
  UpdateInterest(c);
  return true;
}

void VsockDevice::DropAll(ErrorCode) {
  while (!connections_.empty()) Remove(connections_.begin()->first);
  control_.clear();
}
void VsockDevice::Reset() { DropAll(ErrorCode::kGone); }

void VsockDevice::Shutdown() {
  {
    DeviceLock lock(*context_);
    shut_down_ = true;
  }
  loop_.Run([this] {
    DeviceLock lock(*context_);
    DropAll(ErrorCode::kGone);
  });
}

void VsockDevice::Save(ByteWriter& out) const {
  out.Put(guest_cid_);
  out.Put(static_cast<uint32_t>(connections_.size()));
  for (auto& [key, c] : connections_) {
    for (uint32_t v : {key.first, key.second, c->peer_buf_alloc, c->peer_fwd_cnt, c->tx_cnt, c->rx_cnt, c->fwd_cnt, c->told_fwd_cnt}) out.Put(v);
  }
}

Result<void> VsockDevice::Restore(ByteReader& in) {
  guest_cid_ = in.Get<uint32_t>();
  const auto count = in.Get<uint32_t>();
  for (uint32_t i = 0; i < count && in.Ok(); ++i) {
    auto c = std::make_unique<Connection>(*this);
    for (uint32_t* v : {&c->host_port, &c->guest_port, &c->peer_buf_alloc, &c->peer_fwd_cnt, &c->tx_cnt, &c->rx_cnt, &c->fwd_cnt, &c->told_fwd_cnt}) *v = in.Get<uint32_t>();
    if (c->host_port != control_port_) {
      QueueControl(c->host_port, c->guest_port, kRst, 0, nullptr);
      continue;
    }
    const Key key{c->host_port, c->guest_port};
    connections_[key] = std::move(c);
  }
  return {};
}

}  // namespace vmfork
