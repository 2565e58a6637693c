// Streams through the socket device under pressure: every byte arrives, once
// and in order, with small windows, random sizes and slow readers; saved and
// restored in the middle of traffic.
#include <random>

#include "tests/test.h"
#include "tests/vsock_guest.h"

namespace vmfork::testing {
namespace {

constexpr size_t kStreamBytes = 16 << 20;

// A byte stream that both ends can compute: FNV-1a of what passed stands for
// comparing it.
class Pattern {
 public:
  void Fill(std::string& chunk) {
    for (char& byte : chunk) byte = static_cast<char>(random_());
  }

 private:
  std::minstd_rand random_{7};
};

struct Digest {
  uint64_t value = 0xcbf29ce484222325;
  uint64_t bytes = 0;
  void Add(std::string_view chunk) {
    for (const char byte : chunk) value = (value ^ static_cast<uint8_t>(byte)) * 0x100000001b3;
    bytes += chunk.size();
  }
};

void WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written > 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
      continue;
    }
    pollfd state{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&state, 1, 10'000) != 1) return;
  }
}

TEST(SixteenMegabytesFromHostToGuest) {
  VsockMachine m;
  m.guest.buf_alloc = 40'000;
  Stream s = m.ConnectTo(80);
  Digest sent;
  std::thread user([&] {
    Pattern pattern;
    std::minstd_rand sizes{3};
    while (sent.bytes < kStreamBytes) {
      std::string chunk(std::min<size_t>(1 + sizes() % 90'000, kStreamBytes - sent.bytes), '\0');
      pattern.Fill(chunk);
      sent.Add(chunk);
      WriteAll(s.user.Get(), chunk);
    }
  });
  Digest got;
  uint32_t told = 0;
  while (got.bytes < kStreamBytes) {
    const auto packet = m.guest.Receive();
    if (!packet) break;
    got.Add(packet->payload);
    const auto consumed = static_cast<uint32_t>(got.bytes);
    if (consumed - told < 20'000) continue;
    auto update = s.Header(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
    update.fwd_cnt = told = consumed;
    m.guest.Send(update);
  }
  s.user = {};  // lets the writer go in a failed test
  user.join();
  EXPECT_EQ(got.bytes, kStreamBytes);
  EXPECT_EQ(got.value, sent.value);
}

TEST(SixteenMegabytesFromGuestToHost) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  Digest got;
  std::thread user([&] {
    std::minstd_rand sizes{5};
    while (got.bytes < kStreamBytes) {
      const std::string some = ReadSome(s.user.Get(), 1 + sizes() % 90'000);
      if (some.empty()) return;
      got.Add(some);
    }
  });
  Digest sent;
  Pattern pattern;
  std::minstd_rand sizes{9};
  uint32_t forwarded = 0;
  size_t updates = 0;
  while (sent.bytes < kStreamBytes) {
    const uint32_t in_flight = static_cast<uint32_t>(sent.bytes) - forwarded;
    size_t size = std::min<size_t>(1 + sizes() % kMaxPayloadBytes, kStreamBytes - sent.bytes);
    size = std::min<size_t>(size, VsockConnection::kBufAlloc - in_flight);
    if (size > 0) {
      std::string chunk(size, '\0');
      pattern.Fill(chunk);
      sent.Add(chunk);
      m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), chunk);
    }
    // Without credit, the device owes an update as soon as the user has read
    // enough.
    while (auto packet = m.guest.TryReceive(size > 0 ? 0 : 10'000)) {
      EXPECT_EQ(packet->header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
      forwarded = packet->header.fwd_cnt;
      ++updates;
      size = 1;
    }
    if (size == 0) break;
  }
  EXPECT_EQ(sent.bytes, kStreamBytes);
  auto end = s.Header(VIRTIO_VSOCK_OP_SHUTDOWN);
  end.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
  m.guest.Send(end);
  user.join();
  EXPECT_EQ(got.bytes, kStreamBytes);
  EXPECT_EQ(got.value, sent.value);
  // Each costs a slow guest milliseconds: no more than one for a quarter of the
  // window.
  EXPECT_LE(updates, kStreamBytes / (VsockConnection::kBufAlloc / 4));
}

TEST(ManyConnectionsShareTheReceiveRing) {
  VsockMachine m(/*receive_buffers=*/8);
  constexpr size_t kCount = 40;
  std::vector<Stream> streams;
  for (uint32_t i = 0; i < kCount; ++i) streams.push_back(m.ConnectTo(100 + i));
  std::map<uint32_t, std::string> got;
  for (uint32_t i = 0; i < kCount; ++i) {
    WriteAll(streams[i].user.Get(), std::string(20'000, static_cast<char>('0' + i)));
  }
  for (size_t bytes = 0; bytes < kCount * 20'000;) {
    const auto packet = m.guest.Receive();
    if (!packet) break;
    got[packet->header.dst_port] += packet->payload;
    bytes += packet->payload.size();
  }
  for (uint32_t i = 0; i < kCount; ++i) {
    EXPECT_TRUE(got[100 + i] == std::string(20'000, static_cast<char>('0' + i)));
  }
}

// A second machine over a copy of the first one's memory, as a fork makes it.
struct Fork {
  explicit Fork(VsockMachine& from) : machine(0, /*start=*/false) {
    std::memcpy(machine.ram.At(0), from.ram.At(0), from.ram.Size());
    machine.driver.queues = from.driver.queues;
    for (DriverQueue& queue : machine.driver.queues) queue.MoveTo(machine.ram);
    machine.guest = VsockGuest(from.guest, machine.driver, machine.ram);
    ByteWriter state;
    from.transport.Save(state);
    bytes = state.Take();
    ByteReader in(bytes);
    restored = machine.transport.Restore(in);
  }
  VsockMachine machine;
  std::vector<std::byte> bytes;
  Result<void> restored;
};

// The user's end of the control channel, which the guest has dialled from port 5000.
UniqueFd DialControl(VsockMachine& m) {
  Accepted accepted = m.ListenOn(VsockMachine::kControlPort);
  m.guest.Send({.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_REQUEST});
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RESPONSE);
  return accepted.Wait().second;
}

TEST(ControlConnectionGoesOnInAForkAndOthersAreReset) {
  VsockMachine m;
  auto control = DialControl(m);
  const PacketHeader from_agent{.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_RW};
  Stream other = m.ConnectTo(80);
  m.guest.Send(from_agent, "before");
  EXPECT_EQ(ReadExactly(control.Get(), 6), "before");
  WriteAll(other.user.Get(), "lost with its socket");
  m.transport.Pause();

  Fork fork(m);
  ASSERT_TRUE(fork.restored.has_value());
  VsockMachine& clone = fork.machine;
  auto user = clone.device->AttachControl();
  ASSERT_TRUE(user.has_value());
  WriteAll(user->Get(), "first words");
  clone.device->SetCid(43);
  clone.transport.Resume();
  bool saw_reset = false;
  bool saw_data = false;
  while (!(saw_reset && saw_data)) {
    const auto packet = clone.guest.Receive();
    ASSERT_TRUE(packet.has_value());
    saw_reset |= packet->header.op == VIRTIO_VSOCK_OP_RST && packet->header.dst_port == 80;
    saw_data |= packet->payload == "first words" && packet->header.dst_port == 5000;
  }
  clone.guest.Send(from_agent, "after");
  EXPECT_EQ(ReadExactly(user->Get(), 5), "after");
  EXPECT_TRUE(!clone.device->AttachControl().has_value());
  // The guest's program may not have closed its end yet: those ports are not used again.
  const Stream again = clone.ConnectTo(80);
  EXPECT_TRUE(again.from_guest.dst_port != other.from_guest.dst_port);

  // The template goes on as well, with the connections that it had.
  m.transport.Resume();
  EXPECT_EQ(m.guest.Receive()->payload, "lost with its socket");
  m.guest.Send(from_agent, "still here");
  EXPECT_EQ(ReadExactly(control.Get(), 10), "still here");
}

TEST(WhatAForkIsToHearFirstComesBeforeWhatItsUserWrites) {
  VsockMachine m;
  auto control = DialControl(m);
  m.transport.Pause();
  // None, what fits one packet, and more than several take.
  for (const size_t size : {size_t{0}, size_t{10}, size_t{60'000}}) {
    Fork fork(m);
    ASSERT_TRUE(fork.restored.has_value());
    std::string first(size, '.');
    for (size_t i = 0; i < size; ++i) first[i] = static_cast<char>('a' + i % 23);
    auto user = fork.machine.device->AttachControl({}, std::as_bytes(std::span(first)));
    ASSERT_TRUE(user.has_value());
    WriteAll(user->Get(), "and then");
    fork.machine.transport.Resume();
    std::string heard;
    while (heard.size() < size + 8) {
      const auto packet = fork.machine.guest.Receive();
      ASSERT_TRUE(packet.has_value());
      heard += packet->payload;
    }
    EXPECT_TRUE(heard == first + "and then");
    WriteAll(user->Get(), "more");
    EXPECT_EQ(fork.machine.guest.Receive()->payload, "more");
  }
}

TEST(BytesThatTheSocketHadNotTakenAreInTheFork) {
  VsockMachine m;
  auto control = DialControl(m);
  // Far more than the sockets take; the rest is held by the device, and goes
  // where the state goes.
  const PacketHeader data{.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_RW};
  std::string sent;
  uint32_t forwarded = 0;
  for (int i = 0;; ++i) {
    const std::string chunk(60'000, static_cast<char>('a' + i));
    while (auto packet = m.guest.TryReceive(5)) forwarded = packet->header.fwd_cnt;
    if (sent.size() + chunk.size() - forwarded > VsockConnection::kBufAlloc) break;
    m.guest.Send(data, chunk);
    sent += chunk;
    m.Settle();
  }
  m.transport.Pause();
  Fork fork(m);
  ASSERT_TRUE(fork.restored.has_value());
  auto user = fork.machine.device->AttachControl();
  ASSERT_TRUE(user.has_value());
  fork.machine.transport.Resume();
  // The fork's user gets the tail; the template's user what its socket had
  // taken before it.
  const std::string first = ReadSome(user->Get(), 1 << 20);
  EXPECT_TRUE(!first.empty());
  EXPECT_TRUE(sent.ends_with(first) || sent.find(first) != std::string::npos);
}

TEST(ForkWithoutControlConnectionSaysSo) {
  VsockMachine m;
  m.transport.Pause();
  Fork fork(m);
  ASSERT_TRUE(fork.restored.has_value());
  const auto user = fork.machine.device->AttachControl();
  ASSERT_TRUE(!user.has_value());
  EXPECT_EQ(user.error().code, ErrorCode::kState);
}

TEST(DamagedStateIsRefusedOrHarmless) {
  VsockMachine m;
  auto control = DialControl(m);
  Stream other = m.ConnectTo(80);
  m.transport.Pause();
  ByteWriter state;
  m.transport.Save(state);
  const std::vector<std::byte> good = state.Take();
  std::minstd_rand random{11};
  for (size_t length = 0; length < good.size(); ++length) {
    VsockMachine target(0, /*start=*/false);
    ByteReader in(std::span<const std::byte>(good).first(length));
    const auto restored = target.transport.Restore(in);
    EXPECT_TRUE(!restored.has_value());
    EXPECT_EQ(restored.error().code, ErrorCode::kSnapshotInvalid);
  }
  for (int round = 0; round < 300; ++round) {
    std::vector<std::byte> bad = good;
    bad[random() % bad.size()] = static_cast<std::byte>(random());
    VsockMachine target(0, /*start=*/false);
    ByteReader in(bad);
    if (target.transport.Restore(in)) {
      std::ignore = target.device->AttachControl();
      target.transport.Resume();
    }
  }
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
