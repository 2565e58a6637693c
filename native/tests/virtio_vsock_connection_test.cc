// One vsock stream between packets and a socket: credit both ways, bounds, half-closes, saved
// state.
#include "devices/virtio/vsock_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "tests/test.h"

namespace vmfork {
namespace {

constexpr uint32_t kBufAlloc = VsockConnection::kBufAlloc;

struct CountingOwner : VsockConnection::Owner {
  void OnSocket(VsockConnection&, uint32_t events) override {
    last_events = events;
    ++calls;
  }
  std::atomic<uint32_t> calls = 0;
  std::atomic<uint32_t> last_events = 0;
};

// A connected stream: what the device would have after REQUEST and RESPONSE.
struct Stream {
  explicit Stream(uint32_t peer_buf_alloc = kBufAlloc) {
    auto attached = connection.Attach();
    if (attached) user = std::move(*attached);
    TellCredit(peer_buf_alloc, 0);
  }
  ~Stream() {
    loop->Run([this] { connection.Close(); });
  }

  void TellCredit(uint32_t buf_alloc, uint32_t fwd_cnt) {
    connection.TakeCredit({.buf_alloc = buf_alloc, .fwd_cnt = fwd_cnt});
  }
  bool FromGuest(std::span<const std::byte> payload) {
    std::vector<std::byte> packet(kVsockHeaderBytes);
    packet.insert(packet.end(), payload.begin(), payload.end());
    // Cut in the middle of the payload, as a guest may.
    const size_t half = kVsockHeaderBytes + payload.size() / 2;
    const std::array<iovec, 2> parts = {
        {{packet.data(), half}, {packet.data() + half, packet.size() - half}}};
    return connection.TakeData(parts, static_cast<uint32_t>(payload.size()));
  }
  // Sends until bytes had to be kept, as a guest that is told its credit promptly.
  size_t Fill() {
    const std::vector<std::byte> packet(64 << 10, std::byte{1});
    size_t sent = 0;
    while (FromGuest(packet)) {
      sent += packet.size();
      if (connection.Owes(VsockOp::kCreditUpdate)) connection.NextCreditUpdate(header);
    }
    return sent;
  }
  // What one rx buffer of `room` bytes of payload receives.
  std::vector<std::byte> ToGuest(size_t room) {
    std::vector<std::byte> buffer(kVsockHeaderBytes + room);
    const iovec part{buffer.data(), buffer.size()};
    const uint32_t length = connection.ReadData(std::span(&part, 1), header);
    return {buffer.begin() + kVsockHeaderBytes, buffer.begin() + kVsockHeaderBytes + length};
  }
  size_t UserReads(size_t at_most) {
    std::vector<std::byte> bytes(at_most);
    const ssize_t got = ::read(user.Get(), bytes.data(), bytes.size());
    if (got <= 0) return 0;
    bytes.resize(static_cast<size_t>(got));
    read_by_user.insert(read_by_user.end(), bytes.begin(), bytes.end());
    return bytes.size();
  }
  bool UserWrites(std::span<const std::byte> bytes) {
    return ::write(user.Get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
  }

  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::Start("test"));
  CountingOwner owner;
  VsockConnection connection{owner, *loop, {7, 9}};
  UniqueFd user;
  VsockHeader header;
  std::vector<std::byte> read_by_user;
};

std::vector<std::byte> Pattern(size_t size, uint32_t seed = 1) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) {
    seed = seed * 1664525 + 1013904223;
    byte = static_cast<std::byte>(seed >> 24);
  }
  return bytes;
}

uint16_t OpCode(VsockOp op) { return static_cast<uint16_t>(op); }

TEST(DataOfTheGuestReachesTheUserAtOnce) {
  Stream stream;
  const auto data = Pattern(5000);
  EXPECT_TRUE(stream.FromGuest(data));
  stream.UserReads(10000);
  EXPECT_TRUE(stream.read_by_user == data);
}

TEST(AUserWhoDoesNotReadBoundsWhatIsKept) {
  Stream stream;
  size_t sent = 0;
  const auto packet = Pattern(4096);
  while (sent < (64U << 20) && stream.FromGuest(packet)) sent += packet.size();
  // The socket's own buffer and the window, no more; then the guest has broken its credit.
  EXPECT_LT(sent, size_t{4} << 20);
  EXPECT_GE(sent, size_t{kBufAlloc});
}

TEST(KeptDataArrivesInOrderAndCreditFollows) {
  Stream stream;
  std::vector<std::byte> all;
  uint32_t consumed = 0;
  uint32_t updates = 0;
  for (uint32_t round = 0; round < 3000; ++round) {
    // A guest that keeps to what it was told.
    const size_t size = 1 + round * 37 % 4000;
    if (kBufAlloc - (static_cast<uint32_t>(all.size()) - consumed) >= size) {
      const auto data = Pattern(size, round);
      ASSERT_TRUE(stream.FromGuest(data));
      all.insert(all.end(), data.begin(), data.end());
    } else {
      stream.UserReads(150'000);
    }
    stream.connection.TakeEvents(EPOLLOUT);
    if (stream.connection.NextCreditUpdate(stream.header)) {
      consumed = stream.header.fwd_cnt;
      ++updates;
    }
  }
  while (stream.UserReads(1 << 20) > 0) stream.connection.TakeEvents(EPOLLOUT);
  EXPECT_TRUE(stream.read_by_user == all);
  EXPECT_GT(all.size(), size_t{2} << 20);
  // A quarter of the window at least for each update.
  EXPECT_LE(updates, static_cast<uint32_t>(all.size() / (kBufAlloc / 4)));
}

TEST(MoreThanTheWindowIsRefused) {
  Stream stream;
  EXPECT_FALSE(stream.FromGuest(std::vector<std::byte>(kBufAlloc + 1)));
  EXPECT_TRUE(stream.FromGuest(std::vector<std::byte>(kBufAlloc)));
}

TEST(NothingIsReadBeyondTheGuestsCredit) {
  Stream stream(1000);
  ASSERT_TRUE(stream.UserWrites(Pattern(3000)));
  stream.connection.TakeEvents(EPOLLIN);
  EXPECT_EQ(stream.ToGuest(4096).size(), size_t{1000});
  EXPECT_FALSE(stream.connection.HasPacket());
  EXPECT_EQ(stream.ToGuest(4096).size(), size_t{0});
  stream.TellCredit(1000, 600);
  EXPECT_TRUE(stream.connection.HasPacket());
  EXPECT_EQ(stream.ToGuest(4096).size(), size_t{600});
}

TEST(AGuestThatConsumedMoreThanWasSentGetsNothing) {
  Stream stream(1000);
  ASSERT_TRUE(stream.UserWrites(Pattern(3000)));
  stream.connection.TakeEvents(EPOLLIN);
  for (const uint32_t lie : {1U, 0x7fff'ffffU, 0xffff'0000U}) {
    stream.TellCredit(1000, lie);
    EXPECT_FALSE(stream.connection.HasPacket());
  }
}

TEST(CountersWrapAround) {
  Stream stream;
  ByteWriter state;
  state.Put(uint32_t{0});
  // sent, consumed by the guest, its window, received, forwarded, told: all near the wrap.
  for (const uint32_t counter :
       {0xffff'fff0U, 0xffff'fff0U, 4096U, 0xffff'ff00U, 0xffff'ff00U, 0xffff'ff00U}) {
    state.Put(counter);
  }
  state.PutBlock({});
  ByteReader reader(state.Bytes());
  ASSERT_TRUE(stream.connection.Restore(reader).has_value());
  const auto data = Pattern(4096);
  ASSERT_TRUE(stream.UserWrites(data));
  stream.connection.TakeEvents(EPOLLIN);
  EXPECT_TRUE(stream.ToGuest(8192) == data);
  stream.TellCredit(4096, stream.header.length - 16);
  EXPECT_TRUE(stream.FromGuest(data));
  stream.UserReads(8192);
  EXPECT_TRUE(stream.read_by_user == data);
}

TEST(TheUsersHalfCloseIsToldOnceAndDataStillComesBack) {
  Stream stream;
  ASSERT_TRUE(stream.UserWrites(Pattern(10)));
  ::shutdown(stream.user.Get(), SHUT_WR);
  stream.connection.TakeEvents(EPOLLIN);
  EXPECT_EQ(stream.ToGuest(100).size(), size_t{10});
  stream.connection.TakeEvents(EPOLLIN);
  EXPECT_EQ(stream.ToGuest(100).size(), size_t{0});
  ASSERT_TRUE(stream.connection.NextControl(stream.header));
  EXPECT_EQ(stream.header.op, OpCode(VsockOp::kShutdown));
  EXPECT_EQ(stream.header.flags, kVsockNoSend);
  EXPECT_FALSE(stream.connection.HasPacket());
  EXPECT_TRUE(stream.FromGuest(Pattern(20)));
  EXPECT_EQ(stream.UserReads(100), size_t{20});
  EXPECT_FALSE(stream.connection.Over());
}

TEST(AUserWhoGoesAwayIsToldInOnePacketAfterItsData) {
  Stream stream;
  ASSERT_TRUE(stream.UserWrites(Pattern(10)));
  stream.user.Reset();
  stream.connection.TakeEvents(EPOLLIN | EPOLLHUP);
  EXPECT_EQ(stream.ToGuest(100).size(), size_t{10});
  stream.connection.TakeEvents(EPOLLIN | EPOLLHUP);
  EXPECT_EQ(stream.ToGuest(100).size(), size_t{0});
  ASSERT_TRUE(stream.connection.NextControl(stream.header));
  EXPECT_EQ(stream.header.flags, kVsockNoMore);
  // What the guest had under way is thrown away without a fuss, and its credit comes back.
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(stream.FromGuest(Pattern(kBufAlloc)));
    EXPECT_TRUE(stream.connection.NextCreditUpdate(stream.header));
  }
}

TEST(TheGuestsHalfCloseComesAfterItsKeptData) {
  Stream stream;
  const size_t sent = stream.Fill();
  ASSERT_TRUE(stream.connection.HasUndelivered());
  stream.connection.TakeShutdown(kVsockNoSend);
  EXPECT_FALSE(stream.FromGuest(Pattern(1)));
  size_t total = 0;
  for (size_t got = 1; got > 0; total += got) {
    got = stream.UserReads(1 << 20);
    stream.connection.TakeEvents(EPOLLOUT);
  }
  std::byte byte;
  EXPECT_EQ(::read(stream.user.Get(), &byte, 1), ssize_t{0});  // the end, not EAGAIN
  EXPECT_EQ(total, sent);
}

TEST(AFullCloseIsAnsweredAtOnceAndTheUserStillGetsAll) {
  Stream stream;
  const size_t sent = stream.Fill();
  stream.connection.TakeShutdown(kVsockNoMore);
  EXPECT_TRUE(stream.connection.Over());
  stream.connection.Orphan();
  EXPECT_FALSE(stream.connection.HasPacket());
  while (stream.UserReads(1 << 20) > 0) stream.connection.TakeEvents(EPOLLOUT);
  EXPECT_FALSE(stream.connection.HasUndelivered());
  EXPECT_EQ(stream.read_by_user.size(), sent);
}

TEST(ASocketThatIsReadyButUnwantedDoesNotSpin) {
  Stream stream;
  stream.connection.Watch();
  ASSERT_TRUE(stream.UserWrites(Pattern(10)));
  stream.user.Reset();
  while (stream.owner.calls == 0) stream.loop->Run([] {});
  for (int i = 0; i < 100; ++i) stream.loop->Run([] {});
  EXPECT_EQ(stream.owner.calls.load(), 1U);
}

TEST(SavedStateGoesOnWithAnotherHostEnd) {
  Stream before;
  before.Fill();
  before.connection.Owe(VsockOp::kResponse);
  ByteWriter state;
  before.connection.Save(state);

  Stream after;
  ByteReader reader(state.Bytes());
  ASSERT_TRUE(after.connection.Restore(reader).has_value());
  EXPECT_TRUE(reader.AtEnd());
  EXPECT_TRUE(after.connection.Owes(VsockOp::kResponse));
  after.connection.Resume();
  EXPECT_GT(after.UserReads(1 << 20), size_t{0});
}

TEST(ImpossibleSavedStateIsRefused) {
  const auto restore = [](std::array<uint32_t, 7> words, size_t pending) {
    Stream stream;
    ByteWriter state;
    for (const uint32_t word : words) state.Put(word);
    state.PutBlock(std::vector<std::byte>(pending));
    ByteReader reader(state.Bytes());
    return stream.connection.Restore(reader).has_value();
  };
  EXPECT_TRUE(restore({0, 0, 0, 0, 10, 5, 5}, 5));
  EXPECT_FALSE(restore({0, 0, 0, 0, 10, 5, 5}, 6));            // not what the counters say
  EXPECT_FALSE(restore({0, 0, 0, 0, 5, 10, 10}, 5));           // forwarded before received
  EXPECT_FALSE(restore({0, 0, 0, 0, 10, 5, 7}, 5));            // told before forwarded
  EXPECT_FALSE(restore({0xffff'ffff, 0, 0, 0, 10, 5, 5}, 5));  // unknown packets owed
  EXPECT_FALSE(restore({0, 0, 0, 0, kBufAlloc + 1, 0, 0}, kBufAlloc + 1));
  Stream stream;
  ByteReader empty({});
  EXPECT_FALSE(stream.connection.Restore(empty).has_value());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
