// Making and recycling shells.
#include "vm/shell.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "boot/cpuid.h"
#include "memory/layout.h"
#include "vm/engine.h"

namespace vmfork {

namespace {
constexpr uint64_t kQueueNotifyOffset = 0x50;  // virtio 1.2, 4.2.2
constexpr uint32_t kQueueNotifyWidth = 4;
constexpr uint32_t kSpareSlot = 8;  // above those of RAM
}  // namespace

bool ShellShape::operator==(const ShellShape& other) const {
  return memory_bytes == other.memory_bytes && vcpus == other.vcpus && devices == other.devices &&
         cpuid.size() == other.cpuid.size() &&
         std::memcmp(cpuid.data(), other.cpuid.data(), cpuid.size() * sizeof cpuid[0]) == 0;
}

CoreChange FindCoreChange(const CoreState& now, const MachineState& wanted) {
  CoreChange change;
  for (size_t i = 0; i < now.irqchips.size(); ++i) {
    const std::span one(&wanted.irqchips[i], 1), other(&now.irqchips[i], 1);
    // Byte by byte, because only one member of the union counts and the kernel has filled all.
    change.irqchips[i] = !std::ranges::equal(std::as_bytes(one), std::as_bytes(other));
  }
  change.tsc_khz = now.tsc_khz != 0 && now.tsc_khz != wanted.tsc_khz;
  for (size_t i = 0; i < wanted.vcpus.size(); ++i)
    change.vcpus.push_back(FindVcpuChange(now.vcpus[i], wanted.vcpus[i]));
  return change;
}

CoreState StateAtRest(const std::shared_ptr<const MachineState>& state, const CoreState& fresh) {
  CoreState rest = fresh;
  rest.irqchips = state->irqchips;
  for (size_t i = 0; i < rest.vcpus.size() && i < state->vcpus.size(); ++i)
    rest.vcpus[i] = VcpuStateAtRest(state->vcpus[i], fresh.vcpus[i]);
  rest.to_next = FindCoreChange(rest, *state);
  rest.next = state;
  return rest;
}

Result<std::unique_ptr<Shell>> Shell::Build(const Engine& engine, SharedShape shape,
                                            std::shared_ptr<const CoreState> fresh,
                                            StageClock& clock) {
  std::unique_ptr<Shell> shell(new Shell(std::move(shape)));
  VMFORK_TRY(vm, engine.GetKvm().CreateVm());
  shell->vm_ = std::move(vm);
  if (engine.VcpuFormat().has_triple_fault)
    VMFORK_CHECK(shell->vm_.EnableCapability(KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
  clock.Lap("create_vm");
  VMFORK_CHECK(shell->AddMemory(engine));
  clock.Lap("memory_slots");
  // After the memory slots: with the interrupt controllers in place, adding a slot waits for an
  // SRCU grace period of several ms.
  VMFORK_CHECK(shell->vm_.CreateIrqchip());
  clock.Lap("irqchip");
  VMFORK_CHECK(shell->AddVcpus(engine));
  clock.Lap("vcpus");
  VMFORK_TRY(doorbell, Doorbell::Create(engine.NextLoop()));
  shell->doorbell_ = std::move(doorbell);
  for (size_t i = 0; i < shell->shape_->devices; ++i) VMFORK_CHECK(shell->ConnectDoorbell(i));
  clock.Lap("doorbell");
  if (fresh == nullptr) {
    VMFORK_TRY(state, shell->ReadState(engine.VcpuFormat()));
    if (engine.HasTscControl()) {
      VMFORK_TRY(tsc_khz, shell->vcpus_.front()->Fd().GetTscKhz());
      state.tsc_khz = tsc_khz;
    }
    fresh = std::make_shared<const CoreState>(std::move(state));
    clock.Lap("fresh_state");
  }
  shell->now_ = shell->fresh_ = std::move(fresh);
  return shell;
}

Result<void> Shell::AddMemory(const Engine& engine) {
  VMFORK_TRY(view, PrivateView::Reserve(shape_->memory_bytes, &engine.Faults()));
  view_ = std::move(view);
  memory_ = GuestMemory(layout::RamRegions(view_.Data(), view_.Size()));
  uint32_t slot = 0;
  for (const RamRegion& region : memory_.Regions()) {
    VMFORK_CHECK(vm_.SetMemory(slot++, region.start, region.size, region.host));
  }
  VMFORK_CHECK(vm_.SetIdentityMapAddress(layout::kIdentityMapPage));
  return vm_.SetTssAddress(layout::kTssPages);
}

Result<void> Shell::AddVcpus(const Engine& engine) {
  for (uint32_t index = 0; index < shape_->vcpus; ++index) {
    VMFORK_TRY(fd, vm_.CreateVcpu(index, engine.VcpuMappingSize()));
    VMFORK_CHECK(fd.SetMachineCheckBanks(kMachineCheckBanks));
    VMFORK_CHECK(fd.SetCpuid(CpuidOf(shape_->cpuid, index)));
    vcpus_.push_back(std::make_unique<Vcpu>(std::move(fd), index, engine.VcpuNice()));
    VMFORK_TRY(stack, engine.VcpuStacks().Take());
    VMFORK_CHECK(vcpus_.back()->Start(std::move(stack)));
  }
  return {};
}

Result<void> Shell::ConnectDoorbell(size_t index) {
  if (connected_.size() <= index) connected_.resize(index + 1);
  if (connected_[index]) return {};
  const uint64_t base = layout::kMmioBase.value + index * layout::kMmioStride;
  VMFORK_CHECK(
      vm_.AddIoEventfd(doorbell_->Event(), Gpa{base + kQueueNotifyOffset}, kQueueNotifyWidth));
  connected_[index] = true;
  return {};
}

Result<CoreState> Shell::ReadState(const VcpuStateFormat& format) const {
  CoreState state;
  state.format = format;
  for (const auto& vcpu : vcpus_) {
    VMFORK_TRY(vcpu_state, ReadFreshVcpuState(vcpu->Fd(), format));
    state.vcpus.push_back(std::move(vcpu_state));
  }
  state.format.msr_indices.clear();
  for (const kvm_msr_entry& entry : state.vcpus.front().msrs)
    state.format.msr_indices.push_back(entry.index);
  for (uint32_t chip = 0; chip < state.irqchips.size(); ++chip) {
    VMFORK_TRY(irqchip, vm_.GetIrqchip(chip));
    state.irqchips[chip] = irqchip;
  }
  return state;
}

// Where KVM has no nested paging to use it translates the guest's page tables into its own and
// keeps those, following what the guest writes. Memory exchanged by the host escapes it: stale
// translations would mix up pages of the next guest, and on kernels before the fix of
// CVE-2026-53359 free ones of the host. Taking any slot away makes KVM drop all translations
// (kvm_mmu_zap_all_fast() in arch/x86/kvm/mmu/mmu.c).
Result<void> Shell::DropShadowPages() {
  VMFORK_CHECK(vm_.SetMemory(kSpareSlot, layout::kSparePage, kPageSize, view_.Data()));
  return vm_.SetMemory(kSpareSlot, layout::kSparePage, 0, view_.Data());
}

Result<void> Shell::Recycle(const ShellContent& content) {
  const bool shown = view_.GetImage() != nullptr && view_.GetImage() == content.image;
  VMFORK_CHECK(shown ? view_.ShowAgain() : view_.Hide());
  VMFORK_CHECK(DropShadowPages());
  VMFORK_CHECK(WriteCores(content.cores));
  doorbell_->Event().Drain();
  return PrimeMemory(content);
}

Result<void> Shell::Prime(const ShellContent& content) {
  for (const auto& vcpu : vcpus_) vcpu->WarmUp();
  if (now_ != content.cores) VMFORK_CHECK(WriteCores(content.cores));
  return PrimeMemory(content);
}

Result<void> Shell::PrimeMemory(const ShellContent& content) {
  untouched_ = true;
  if (content.image == nullptr) return {};  // nothing is in view already
  if (view_.GetImage() != content.image) VMFORK_CHECK(view_.Show(content.image));
  PutInPlace(content.ahead);
  if (sockets_.AreValid()) return {};
  // A fork that finds none makes its own, and says why it cannot.
  if (auto sockets = VsockSockets::Make()) sockets_ = std::move(*sockets);
  return {};
}

void Shell::KeepDevices(std::unique_ptr<Devices> devices,
                        std::shared_ptr<const MachineState> state) {
  devices_ = std::move(devices);
  devices_state_ = std::move(state);
}

std::unique_ptr<Devices> Shell::TakeDevices(const MachineState* state) {
  const bool is_right = state != nullptr && WaitsFor(*state);
  devices_state_ = nullptr;
  auto devices = std::move(devices_);
  return is_right ? std::move(devices) : nullptr;
}

Result<void> Shell::HideMemory() {
  sockets_ = {};
  KeepDevices(nullptr, nullptr);
  return view_.Hide();
}

Result<void> Shell::ShowMemory(std::shared_ptr<const Image> image, const PagesAhead& ahead) {
  if (std::exchange(untouched_, false) && view_.GetImage() == image) return {};
  VMFORK_CHECK(view_.Show(std::move(image)));
  PutInPlace(ahead);
  return {};
}

void Shell::PutInPlace(const PagesAhead& ahead) {
  view_.CopyAhead(ahead.copied);
  view_.MapAhead(ahead.mapped);
}

Result<void> Shell::MakeFresh() {
  if (now_ != fresh_) VMFORK_CHECK(WriteCores(fresh_));
  // A shell at rest holds no time: a fork brings its own, but here it would tell of guests before.
  VMFORK_CHECK(vm_.SetClock({}));
  for (const auto& vcpu : vcpus_) VMFORK_CHECK(StartTsc(vcpu->Fd()));
  return {};
}

Result<void> Shell::WriteCores(std::shared_ptr<const CoreState> state) {
  for (const kvm_irqchip& chip : state->irqchips) VMFORK_CHECK(vm_.SetIrqchip(chip));
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    const VcpuFd& vcpu = vcpus_[i]->Fd();
    if (state->tsc_khz != 0) VMFORK_CHECK(vcpu.SetTscKhz(state->tsc_khz));
    VMFORK_CHECK(ResetVcpuState(vcpu, state->vcpus[i]));
  }
  now_ = std::move(state);
  return {};
}

}  // namespace vmfork
