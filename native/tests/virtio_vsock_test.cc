// The socket device, by a guest that behaves like Linux: dialling, streams,
// credit, half-close.
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "tests/test.h"
#include "tests/vsock_guest.h"

namespace vmfork::testing {
namespace {

TEST(GuestDialsAListeningHostPort) {
  VsockMachine m;
  Accepted accepted = m.ListenOn(1024);
  m.guest.Send({.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_REQUEST});
  const auto response = m.guest.Receive();
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->header.op, VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(response->header.src_cid, 2U);
  EXPECT_EQ(response->header.dst_cid, kGuestCid);
  EXPECT_EQ(response->header.src_port, 1024U);
  EXPECT_EQ(response->header.dst_port, 5000U);
  EXPECT_EQ(response->header.buf_alloc, VsockConnection::kBufAlloc);
  auto user = accepted.Wait();
  EXPECT_EQ(user.first, 5000U);
  EXPECT_TRUE(user.second.IsValid());
}

TEST(GuestDialsAPortNobodyListensOn) {
  VsockMachine m;
  m.guest.Send({.src_port = 5000, .dst_port = 77, .op = VIRTIO_VSOCK_OP_REQUEST});
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RST);
}

TEST(HostConnectsAndDataFlowsBothWays) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  ASSERT_TRUE(s.user.IsValid());
  EXPECT_EQ(::write(s.user.Get(), "ping", 4), 4);
  const auto packet = m.guest.Receive();
  ASSERT_TRUE(packet.has_value());
  EXPECT_EQ(packet->header.op, VIRTIO_VSOCK_OP_RW);
  EXPECT_EQ(packet->payload, "ping");
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "pong!");
  EXPECT_EQ(ReadExactly(s.user.Get(), 5), "pong!");
}

TEST(RefusedConnectSaysSo) {
  VsockMachine m;
  std::promise<Result<UniqueFd>> result;
  m.device->Connect(81, [&](Result<UniqueFd> r) { result.set_value(std::move(r)); });
  const auto request = m.guest.Receive();
  EXPECT_EQ(request->header.op, VIRTIO_VSOCK_OP_REQUEST);
  m.guest.Send(Reply(request->header, VIRTIO_VSOCK_OP_RST));
  auto outcome = result.get_future().get();
  ASSERT_TRUE(!outcome.has_value());
  EXPECT_EQ(outcome.error().code, ErrorCode::kConnectionRefused);
}

TEST(PendingConnectFailsWithGoneWhenTheDriverResets) {
  VsockMachine m;
  std::promise<Result<UniqueFd>> result;
  m.device->Connect(81, [&](Result<UniqueFd> r) { result.set_value(std::move(r)); });
  m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  auto outcome = result.get_future().get();
  ASSERT_TRUE(!outcome.has_value());
  EXPECT_EQ(outcome.error().code, ErrorCode::kGone);
}

TEST(UserHalfClosesAndStillReads) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  EXPECT_EQ(::write(s.user.Get(), "last", 4), 4);
  ::shutdown(s.user.Get(), SHUT_WR);
  EXPECT_EQ(m.guest.Receive()->payload, "last");
  const auto shutdown = m.guest.Receive();
  ASSERT_TRUE(shutdown.has_value());
  EXPECT_EQ(shutdown->header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(shutdown->header.flags, uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND});
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "answer");
  EXPECT_EQ(ReadExactly(s.user.Get(), 6), "answer");
}

TEST(GuestHalfClosesAndStillReads) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "last");
  auto header = s.Header(VIRTIO_VSOCK_OP_SHUTDOWN);
  header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND;
  m.guest.Send(header);
  EXPECT_EQ(ReadToEnd(s.user.Get()), "last");
  EXPECT_EQ(::write(s.user.Get(), "more", 4), 4);
  EXPECT_EQ(m.guest.Receive()->payload, "more");
}

TEST(GuestClosesAndUserGetsEveryByteThenTheEnd) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  const std::string data(200'000, 'x');  // more than one packet, and left in buffers for a while
  for (size_t at = 0; at < data.size(); at += 50'000) {
    m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), data.substr(at, 50'000));
  }
  auto header = s.Header(VIRTIO_VSOCK_OP_SHUTDOWN);
  header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
  m.guest.Send(header);
  auto packet = m.guest.Receive();
  if (packet->header.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE) packet = m.guest.Receive();
  EXPECT_EQ(packet->header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(ReadToEnd(s.user.Get()) == data);
}

// Linux resets a connection that it closed when the host has not done so within 8 s
// (VSOCK_CLOSE_TIMEOUT). What it sent before still belongs to a user who reads slowly.
TEST(GuestResetKeepsWhatItSentBefore) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  // As much as credit allows: the user's socket is full, and bytes are left with the device.
  std::string sent;
  uint32_t forwarded = 0;
  const std::string chunk(40'000, 'z');
  while (sent.size() + chunk.size() - forwarded <= VsockConnection::kBufAlloc) {
    m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), chunk);
    sent += chunk;
    m.Settle();
    while (auto packet = m.guest.TryReceive()) forwarded = packet->header.fwd_cnt;
  }
  auto header = s.Header(VIRTIO_VSOCK_OP_SHUTDOWN);
  header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV;
  m.guest.Send(header);
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RST));
  m.Settle();
  EXPECT_EQ(ReadToEnd(s.user.Get()).size(), sent.size());
}

TEST(UserClosesAndGuestIsToldOnce) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  s.user.Reset();
  const auto shutdown = m.guest.Receive();
  EXPECT_EQ(shutdown->header.op, VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(shutdown->header.flags,
            uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV});
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RST));
  // The connection is forgotten: packets on it are answered by RST.
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "late");
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RST);
}

TEST(GuestResetEndsTheUsersStream) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RST));
  EXPECT_EQ(ReadToEnd(s.user.Get()), "");
}

TEST(GuestThatIgnoresItsCreditIsReset) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  const std::string packet(60'000, 'x');
  // The user reads nothing: its socket fills, then our window, then it is
  // enough.
  bool reset = false;
  for (int i = 0; i < 40 && !reset; ++i) {
    m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), packet);
    m.Settle();
    while (auto answer = m.guest.TryReceive()) reset |= answer->header.op == VIRTIO_VSOCK_OP_RST;
  }
  EXPECT_TRUE(reset);
}

TEST(HostStopsAtTheGuestsCreditAndGoesOnWithIt) {
  VsockMachine m;
  m.guest.buf_alloc = 10'000;
  Stream s = m.ConnectTo(80);
  const std::string data(30'000, 'y');
  EXPECT_EQ(::write(s.user.Get(), data.data(), data.size()), ssize_t{30'000});
  std::string got;
  while (got.size() < 10'000) got += m.guest.Receive()->payload;
  EXPECT_EQ(got.size(), 10'000U);
  EXPECT_TRUE(!m.guest.TryReceive().has_value());
  auto update = s.Header(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  while (got.size() < data.size()) {
    update.fwd_cnt = static_cast<uint32_t>(got.size());
    m.guest.Send(update);
    const size_t until = std::min(got.size() + 10'000, data.size());
    while (got.size() < until) got += m.guest.Receive()->payload;
  }
  EXPECT_TRUE(got == data);
}

TEST(NonsenseCreditFromTheGuestSendsNothing) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  auto update = s.Header(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  update.fwd_cnt = 1000;  // more than was ever sent: in-flight wraps below zero
  m.guest.Send(update);
  m.Settle();
  EXPECT_EQ(::write(s.user.Get(), "data", 4), 4);
  EXPECT_TRUE(!m.guest.TryReceive(50).has_value());
}

TEST(CreditRequestIsAnswered) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "12345");
  EXPECT_EQ(ReadExactly(s.user.Get(), 5), "12345");
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_CREDIT_REQUEST));
  const auto update = m.guest.Receive();
  EXPECT_EQ(update->header.op, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  EXPECT_EQ(update->header.fwd_cnt, 5U);
}

TEST(PacketsThatFitNothingAreResetOrDropped) {
  VsockMachine m;
  m.guest.Send({.src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_RW});
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RST);
  m.guest.Send({.src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_RST});  // never answered
  m.guest.Send({.src_cid = 99, .src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_REQUEST});
  m.guest.Send({.src_port = 3, .dst_port = 4, .type = 7, .op = VIRTIO_VSOCK_OP_REQUEST});
  const auto answer = m.guest.Receive();
  EXPECT_EQ(answer->header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(answer->header.type, 7);
  EXPECT_EQ(answer->header.dst_port, 3U);
}

TEST(DuplicateRequestEndsTheConnection) {
  VsockMachine m;
  Accepted accepted = m.ListenOn(1024);
  m.guest.Send({.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_REQUEST});
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RESPONSE);
  auto user = accepted.Wait();
  m.guest.Send({.src_port = 5000, .dst_port = 1024, .op = VIRTIO_VSOCK_OP_REQUEST});
  EXPECT_EQ(m.guest.Receive()->header.op, VIRTIO_VSOCK_OP_RST);
  EXPECT_EQ(ReadToEnd(user.second.Get()), "");
}

TEST(PayloadLongerThanItsChainIsDropped) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  auto header = s.Header(VIRTIO_VSOCK_OP_RW);
  m.guest.SendRaw(header, 5000, "short");
  m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "good");
  EXPECT_EQ(ReadExactly(s.user.Get(), 4), "good");
}

TEST(FloodOfPacketsWithoutReceiveBuffersIsHeldBack) {
  VsockMachine m(/*receive_buffers=*/0);
  // Each of these is owed a RST; with no buffer to put one in, the device must
  // stop reading.
  size_t sent = 0;
  for (; sent < 4000 && m.guest.CanSend(); ++sent) {
    m.guest.Send({.src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_RW});
    m.Settle();
  }
  EXPECT_LT(sent, 2000U);
  m.guest.PostBuffers(64);
  size_t resets = 0;
  while (resets < sent && m.guest.Receive().has_value()) ++resets;
  EXPECT_EQ(resets, sent);
}

TEST(TransmitChainsComeBackBeforeTheRingIsFull) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(m.guest.CanSend());
    m.guest.Send(s.Header(VIRTIO_VSOCK_OP_RW), "x");
    EXPECT_EQ(ReadExactly(s.user.Get(), 1), "x");
  }
}

TEST(NewCidIsShownAndOldOneStillAccepted) {
  VsockMachine m;
  m.device->SetCid(77);
  EXPECT_EQ(m.driver.Read(VIRTIO_MMIO_CONFIG), 77U);
  EXPECT_TRUE((m.driver.WaitInterrupt().value_or(0) & VIRTIO_MMIO_INT_CONFIG) != 0);
  m.guest.Send({.src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_RW});
  EXPECT_EQ(m.guest.Receive()->header.dst_cid, kGuestCid);
  m.guest.Send({.src_cid = 77, .src_port = 1, .dst_port = 2, .op = VIRTIO_VSOCK_OP_RW});
  EXPECT_EQ(m.guest.Receive()->header.dst_cid, 77U);
}

TEST(WhilePausedNothingMoves) {
  VsockMachine m;
  Stream s = m.ConnectTo(80);
  m.transport.Pause();
  EXPECT_EQ(::write(s.user.Get(), "wait", 4), 4);
  EXPECT_TRUE(!m.guest.TryReceive(50).has_value());
  m.transport.Resume();
  EXPECT_EQ(m.guest.Receive()->payload, "wait");
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
