// Vcpu: a virtual processor and the thread that runs it. The thread does nothing but KVM_RUN and
// hand exits to the buses.
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
  // `on_end` is called once, on the vCPU's thread, when the guest cannot go on; the thread then
  // ends. All references must outlive this.
  Vcpu(VcpuFd fd, uint32_t index, const GuestMemory& memory, const Bus& ports, const Bus& mmio,
       std::function<void(Error)> on_end);
  ~Vcpu();  // Stop()

  const VcpuFd& Fd() const { return fd_; }

  // Starts the thread; the guest runs at once.
  Result<void> Start();
  // Asks it out of the guest; WaitParked() returns when it is (or has ended). Its state can then be
  // read and written: a port or MMIO access that was under way has been completed.
  void RequestPark();
  void WaitParked();
  void Unpark();
  // Ends guest execution without waiting for it.
  void RequestStop();
  // Ends and joins the thread; not on the thread itself. Idempotent.
  void Stop();

 private:
  enum class Wish { kRun, kPark, kStop };
  void Ask(Wish wish);
  void Main();
  bool WaitForWish();  // false: stop
  Result<void> HandleExit();
  void HandlePortAccess();

  VcpuFd fd_;
  uint32_t index_;
  const GuestMemory& memory_;
  const Bus& ports_;
  const Bus& mmio_;
  std::function<void(Error)> on_end_;

  std::mutex mutex_;  // guards wish_, parked_ and ended_
  std::condition_variable changed_;
  Wish wish_ = Wish::kRun;
  bool parked_ = false;
  bool ended_ = false;
  Thread thread_;
};

}  // namespace vmfork
