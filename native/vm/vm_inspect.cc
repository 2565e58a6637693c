// What a VM shows of itself: which memory it holds, and where its guest is.
#include <chrono>
#include <thread>

#include "memory/page_scan.h"
#include "vm/machine.h"
#include "vm/vm.h"

namespace vmfork {

Result<MemoryUse> Vm::Memory() const {
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  VMFORK_TRY(counts, CountPages(std::span(machine_->View().Data(), machine_->View().Size())));
  return MemoryUse{.resident = counts.shared_bytes + counts.owned_bytes,
                   .shared = counts.shared_bytes,
                   .owned = counts.owned_bytes};
}

Result<std::vector<PageRun>> Vm::OwnedPages() const {
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  return FindOwnedPages(std::span(machine_->View().Data(), machine_->View().Size()));
}

bool Vm::NoteStarted() {
  std::shared_lock lock(machine_mutex_);
  if (machine_ != nullptr) machine_->NoteStarted();
  return origin_ != nullptr && origin_->Early().IsWanting();
}

void Vm::LearnStart() {
  std::unique_lock order(order_mutex_, std::try_to_lock);
  if (!order || origin_ == nullptr || !origin_->Early().IsWanting()) return;
  std::shared_lock lock(machine_mutex_);
  // One that was reset since has yet to start, one that was frozen since owns less.
  if (machine_ == nullptr || !machine_->IsStarted() ||
      machine_->View().GetImage() != origin_->GetImage())
    return;
  const std::span<const std::byte> memory(machine_->View().Data(), machine_->View().Size());
  const auto touched = FindPresentPages(memory);
  const auto owned = FindOwnedPages(memory);
  if (touched && owned) origin_->Early().AddStart(*touched, *owned);
}

Result<std::vector<PageRun>> Vm::TouchedPages() const {
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  return FindPresentPages(std::span(machine_->View().Data(), machine_->View().Size()));
}

Result<std::vector<uint64_t>> Vm::SampleRip(uint32_t count, uint32_t interval_us) {
  std::vector<uint64_t> samples;
  for (uint32_t i = 0; i < count; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(interval_us));
    std::lock_guard order(order_mutex_);
    std::shared_lock lock(machine_mutex_);
    VMFORK_CHECK(CheckAlive());
    if (paused_) return Fail(ErrorCode::kState, "sample", "the VM is paused");
    Vcpu& vcpu = machine_->BootVcpu();
    vcpu.RequestPark();
    vcpu.WaitParked();
    kvm_regs regs{};
    const auto read = vcpu.Fd().Get(regs);
    vcpu.Unpark();
    if (!read) return std::unexpected(read.error());
    samples.push_back(regs.rip);
  }
  return samples;
}

}  // namespace vmfork
