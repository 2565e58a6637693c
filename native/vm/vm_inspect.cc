// What a VM shows of itself: which memory it holds, and where its guest is.
#include <chrono>
#include <thread>

#include "base/out_of_memory.h"
#include "memory/image_content.h"
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

Result<Vm::OwnMemory> Vm::GetOwnMemory() {
  // A snapshot turns what is owned into a part of a new image: not in the middle of one.
  std::lock_guard order(order_mutex_);
  VMFORK_TRY(owned, OwnedPages());
  std::shared_lock lock(machine_mutex_);
  VMFORK_CHECK(CheckAlive());
  return OwnMemory{.owned = std::move(owned), .image = machine_->View().GetImage()};
}

Result<MemoryDifference> Vm::Compare(Vm& one, Vm& other) {
  VMFORK_TRY(here, one.GetOwnMemory());
  VMFORK_TRY(there, other.GetOwnMemory());
  if (here.image->Size() != there.image->Size())
    return Fail(ErrorCode::kState, "diff", "the two have different sizes of memory");
  VMFORK_TRY(frozen, FindDifferences(*here.image, *there.image, 0));
  return MemoryDifference{
      .here = std::move(here.owned), .there = std::move(there.owned), .frozen = std::move(frozen)};
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
  TryWithMemory([&] {
    const auto touched = FindPresentPages(memory);
    const auto owned = FindOwnedPages(memory);
    if (touched && owned) origin_->Early().AddStart(*touched, *owned);
  });
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
