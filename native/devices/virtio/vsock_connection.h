// VsockConnection: one stream between the guest and a Unix socket of the host: its credit counters
// (virtio 1.2, section 5.10.6.3), its socket, and what is owed to either side.
//
// It knows nothing of queues or other connections: VsockDevice moves the packets. All calls need
// the device's lock.
#pragma once

#include <sys/uio.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/byte_io.h"
#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/virtio/vsock_packet.h"
#include "devices/virtio/vsock_sockets.h"

namespace vmfork {

struct VsockKey {
  uint32_t host_port = 0;
  uint32_t guest_port = 0;
  auto operator<=>(const VsockKey&) const = default;
};

class VsockConnection : public EventHandler {
 public:
  // What we let the guest have in flight; bounds the bytes kept here for a socket that is full.
  static constexpr uint32_t kBufAlloc = VsockSockets::kBufferBytes;

  using ConnectDone = std::function<void(Result<UniqueFd>)>;

  class Owner {
   public:
    virtual ~Owner() = default;
    // On the loop's thread, without the device's lock.
    virtual void OnSocket(VsockConnection& connection, uint32_t events) = 0;
  };

  VsockConnection(Owner& owner, EventLoop& loop, VsockKey key)
      : owner_(owner), loop_(loop), key_(key) {}

  const VsockKey& Key() const { return key_; }

  // Keeps one end and returns the user's.
  UniqueFd Attach(VsockSockets sockets);
  Result<UniqueFd> Attach();  // of new ones
  bool Attached() const { return socket_.IsValid(); }
  // To the guest, before whatever the user writes. Once, before Resume().
  void PutFirst(std::span<const std::byte> bytes) { first_.assign(bytes.begin(), bytes.end()); }
  // The loop reported `events` and watches no more.
  void TakeEvents(uint32_t events);
  void ForgetWatch() { watching_ = false; }
  // After a pause: whatever the socket waits for is looked at again.
  void Resume();
  // Asks the loop for what is needed to go on, no more.
  void Watch();
  // Ends watching and closes the socket; on the loop's thread only.
  void Close();

  // From the guest. TakeData(): false when the guest broke the rules. `packet` begins with a
  // header.
  void TakeCredit(const VsockHeader& header);
  bool TakeData(std::span<const iovec> packet, uint32_t length);
  void TakeShutdown(uint32_t flags);

  // To the guest. An op waits for an rx buffer at most once, however often it is owed.
  void Owe(VsockOp op) { owed_ |= BitOf(op); }
  bool Owes(VsockOp op) const { return (owed_ & BitOf(op)) != 0; }
  bool HasPacket() const { return owed_ != 0 || CanRead(); }
  // The packet that has to go first, if there is one.
  bool NextControl(VsockHeader& header);
  // Puts what comes next, as a rule from the socket, into an rx buffer, behind the header. 0: there
  // is no data packet to send.
  uint32_t ReadData(std::span<const iovec> buffer, VsockHeader& header);
  // Goes last: any other packet carries the credit as well.
  bool NextCreditUpdate(VsockHeader& header);

  // To be reset: the socket failed, or the guest ended the stream. At once, even when bytes still
  // wait for the user: Linux forgets a socket that gets no answer for 8 s (VSOCK_CLOSE_TIMEOUT).
  bool Over() const { return failure_ != 0 || guest_shutdown_ == kVsockNoMore; }
  int Failure() const { return failure_; }  // errno, 0: the socket is fine
  // The guest has been told that the user is gone.
  bool EndTold() const { return host_shutdown_ == kVsockNoMore; }
  // The guest's end is gone: what it had sent goes on to the user, nothing else happens any more.
  void Orphan();
  bool HasUndelivered() const {
    return Attached() && failure_ == 0 && user_reads_ && PendingBytes() > 0;
  }
  // Neither side has begun to end the stream: it can go on with another host end.
  bool Whole() const {
    return !connecting && !read_all_ && failure_ == 0 && (guest_shutdown_ | host_shutdown_) == 0;
  }
  void Save(ByteWriter& out) const;
  Result<void> Restore(ByteReader& in);

  // For the device. Set while the guest has not answered our request:
  ConnectDone connecting;
  std::function<void()> on_answer;  // set until the guest sends something
  bool listed = false;              // in its list of connections with packets
  bool dead = false;                // taken out of its table
  bool draining = false;            // dead, but HasUndelivered()

 private:
  static uint32_t BitOf(VsockOp op) { return 1U << static_cast<uint16_t>(op); }
  void OnEvents(uint32_t events) override { owner_.OnSocket(*this, events); }
  uint32_t Credit() const;
  bool CanRead() const;
  size_t TakeFirst(size_t room);
  size_t PendingBytes() const { return pending_.size() - pending_start_; }
  size_t SendNow(std::span<const iovec> parts);
  void Keep(std::span<const iovec> parts);
  void Flush();
  void OweCreditIfWorth();
  void TellShutdown(uint32_t flags);
  void DropUser();
  void FillHeader(VsockHeader& header, VsockOp op, uint32_t length);

  Owner& owner_;
  EventLoop& loop_;
  const VsockKey key_;
  UniqueFd socket_;
  // Watching is one-shot: the loop disarms when it reports. So a socket that is ready (or hung up)
  // while nothing can be done about it wakes the loop once, not for ever.
  bool added_ = false;
  bool watching_ = false;
  uint32_t watched_ = 0;

  bool readable_ = false;        // first_ has bytes, or the socket may have
  bool read_all_ = false;        // the user's stream has ended
  bool user_reads_ = true;       // else what the guest sends is thrown away
  int failure_ = 0;              // errno of what the socket cannot go on after
  uint32_t host_shutdown_ = 0;   // kVsockNo… flags that the guest has been or will be told
  uint32_t guest_shutdown_ = 0;  // those that it told us
  uint32_t owed_ = 0;

  // Free-running counters of bytes, modulo 2^32 as on the wire.
  uint32_t sent_ = 0;            // to the guest
  uint32_t peer_fwd_cnt_ = 0;    // of those, what the guest has consumed
  uint32_t peer_buf_alloc_ = 0;  // what the guest lets us have in flight
  uint32_t received_ = 0;        // from the guest
  uint32_t forwarded_ = 0;       // of those, what the socket has taken
  uint32_t told_forwarded_ = 0;  // forwarded_ as the guest knows it

  std::vector<std::byte> first_;  // for the guest
  // From the guest, not yet taken by the socket: at most kBufAlloc bytes, from pending_start_ on.
  std::vector<std::byte> pending_;
  size_t pending_start_ = 0;
  std::vector<iovec> parts_;  // reused
};

}  // namespace vmfork
