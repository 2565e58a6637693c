// Vcpu: a virtual processor and the thread that runs it. The thread does nothing but KVM_RUN and
// hand exits to the buses. Both outlive the machine they serve and serve another one then.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

#include "base/result.h"
#include "base/thread.h"
#include "devices/bus.h"
#include "kvm/vcpu_fd.h"
#include "memory/guest_memory.h"

namespace vmfork {

class Vcpu {
 public:
  // Where exits lead: the machine that this processor belongs to now.
  struct Owner {
    const GuestMemory* memory = nullptr;
    const Bus* ports = nullptr;
    const Bus* mmio = nullptr;
    // Called on the vCPU's thread, once, when the guest cannot go on; the thread then ends.
    std::function<void(Error)> on_end;
  };

  // `nice` of the thread: 0 to 19.
  Vcpu(VcpuFd fd, uint32_t index, int nice) : fd_(std::move(fd)), index_(index), nice_(nice) {}
  ~Vcpu();  // ends and joins the thread

  const VcpuFd& Fd() const { return fd_; }

  // Starts the thread, parked.
  Result<void> Start(ThreadStacks::Stack stack);
  // Of a parked one that has not run yet: has KVM make what it puts off until a processor's first
  // KVM_RUN, such as a thread that looks after the machine's pages. Waits for that.
  void WarmUp();
  // Parked only. All that the owner points to must stay until Stop().
  void SetOwner(Owner owner);
  // Ends guest execution for good and waits for that. False: its thread has ended, and is joined.
  bool Stop();
  // Of one that is stopped: forgets the owner. Afterwards it is parked, for another one. A machine
  // stops all of its processors first: one that still runs may have it ask the others to stop.
  void Disown();

  // Asks it out of the guest; WaitParked() returns when it is (or has ended). Its state can then be
  // read and written: a port or MMIO access that was under way has been completed.
  void RequestPark() { Ask(Wish::kPark); }
  void WaitParked();
  void Unpark() { Ask(Wish::kRun); }
  // Ends guest execution without waiting for it; no Unpark() brings it back.
  void RequestStop() { Ask(Wish::kStop); }

 private:
  enum class Wish { kRun, kPark, kStop, kQuit };
  void Ask(Wish wish);
  void Main();
  bool WaitForWish();  // false: quit
  Result<void> HandleExit();
  void HandlePortAccess();

  VcpuFd fd_;
  const uint32_t index_;
  const int nice_;
  Owner owner_;  // the thread's while it runs, else guarded by mutex_

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  Wish wish_ = Wish::kPark;
  bool parked_ = false;
  bool warm_up_wanted_ = false;
  bool ended_ = false;
  Thread thread_;
};

}  // namespace vmfork
