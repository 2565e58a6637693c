// The run loop.
#include "vcpu/vcpu.h"

#include <string>
#include <tuple>
#include <utility>

#include "base/signals.h"
#include "vcpu/instruction_fixup.h"

namespace vmfork {

Vcpu::~Vcpu() {
  Ask(Wish::kQuit);
  thread_.Join();
}

Result<void> Vcpu::Start(ThreadStacks::Stack stack) {
  KickSignal();  // installs the handler before the thread can be sent one
  return thread_.Start(
      "vmfork-vcpu" + std::to_string(index_), [this] { Main(); }, std::move(stack));
}

void Vcpu::SetOwner(Owner owner) {
  std::lock_guard lock(mutex_);
  owner_ = std::move(owner);
}

bool Vcpu::Stop() {
  RequestStop();
  WaitParked();
  {
    std::lock_guard lock(mutex_);
    if (!ended_) return true;
  }
  thread_.Join();  // it may still be telling the owner
  return false;
}

void Vcpu::Disown() {
  std::lock_guard lock(mutex_);
  owner_ = {};
  wish_ = Wish::kPark;
}

void Vcpu::Ask(Wish wish) {
  {
    std::lock_guard lock(mutex_);
    // What ends execution is not taken back.
    if (wish <= wish_ && wish_ >= Wish::kStop) return;
    wish_ = wish;
    if (wish != Wish::kRun && !parked_) {
      // The flag covers a thread that is about to enter the guest, the signal one that is in it.
      // KVM reads the flag on entry (Documentation/virt/kvm/api.rst, immediate_exit).
      __atomic_store_n(&fd_.Run().immediate_exit, 1, __ATOMIC_SEQ_CST);
      if (!ended_) thread_.Kill(KickSignal());
    }
  }
  // Without the lock, which the thread that wakes up takes at once.
  changed_.notify_all();
}

void Vcpu::WaitParked() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return parked_ || ended_ || !thread_.IsStarted(); });
}

void Vcpu::WarmUp() {
  {
    std::lock_guard lock(mutex_);
    parked_ = false;
    warm_up_wanted_ = true;
    changed_.notify_all();
  }
  WaitParked();
}

bool Vcpu::WaitForWish() {
  std::unique_lock lock(mutex_);
  while (wish_ == Wish::kPark || wish_ == Wish::kStop) {
    if (std::exchange(warm_up_wanted_, false)) {
      // The guest is not entered. A failure will come again when it matters.
      __atomic_store_n(&fd_.Run().immediate_exit, 1, __ATOMIC_SEQ_CST);
      lock.unlock();
      std::ignore = fd_.Enter();
      lock.lock();
      continue;
    }
    parked_ = true;
    changed_.notify_all();
    changed_.wait(lock);
  }
  parked_ = false;
  if (wish_ == Wish::kQuit) return false;
  __atomic_store_n(&fd_.Run().immediate_exit, 0, __ATOMIC_SEQ_CST);
  return true;
}

void Vcpu::Main() {
  ComputeInBackground(nice_);
  Result<void> handled;
  bool goes_on = WaitForWish();
  while (goes_on && handled) {
    const int error_number = fd_.Enter();
    if (error_number == 0) {
      handled = HandleExit();
    } else if (error_number == EINTR || error_number == EAGAIN) {
      // Only here may the thread park: KVM completes the last port or MMIO access on the way in,
      // before it sees the flag.
      goes_on = WaitForWish();
    } else {
      handled = FailErrno(error_number, "KVM_RUN", "vCPU " + std::to_string(index_));
    }
  }
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  if (!handled) owner_.on_end(std::move(handled).error());
}

Result<void> Vcpu::HandleExit() {
  kvm_run& run = fd_.Run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      HandlePortAccess();
      return {};
    case KVM_EXIT_MMIO: {
      // SAFETY: `data` has 8 bytes and KVM sets len to 1 … 8.
      std::span data(reinterpret_cast<std::byte*>(run.mmio.data), run.mmio.len);
      run.mmio.is_write ? owner_.mmio->Write(run.mmio.phys_addr, data)
                        : owner_.mmio->Read(run.mmio.phys_addr, data);
      return {};
    }
    case KVM_EXIT_INTERNAL_ERROR:
      return FinishInstruction(fd_, *owner_.memory);
    case KVM_EXIT_SHUTDOWN:
      return Fail(ErrorCode::kGuestCrash, "KVM_RUN", "triple fault");
    case KVM_EXIT_SYSTEM_EVENT:
      return Fail(ErrorCode::kGuestReset, "KVM_RUN",
                  "system event " + std::to_string(run.system_event.type));
    case KVM_EXIT_FAIL_ENTRY:
      return Fail(ErrorCode::kInternal, "KVM_RUN",
                  "entry failed, hardware reason " +
                      std::to_string(run.fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return {};
    default:
      return Fail(ErrorCode::kInternal, "KVM_RUN",
                  "unexpected exit " + std::to_string(run.exit_reason));
  }
}

void Vcpu::HandlePortAccess() {
  kvm_run& run = fd_.Run();
  // SAFETY: KVM lays count × size bytes at data_offset of the same mapping.
  auto* data = reinterpret_cast<std::byte*>(&run) + run.io.data_offset;
  for (uint32_t i = 0; i < run.io.count; ++i, data += run.io.size) {
    std::span element(data, run.io.size);
    run.io.direction == KVM_EXIT_IO_OUT ? owner_.ports->Write(run.io.port, element)
                                        : owner_.ports->Read(run.io.port, element);
  }
}

}  // namespace vmfork
