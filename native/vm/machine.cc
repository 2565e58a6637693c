// Building, filling and stopping a machine.
#include "vm/machine.h"

#include <sys/epoll.h>

#include <cinttypes>
#include <cstdio>

#include "boot/cpuid.h"
#include "devices/virtio/rng.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
constexpr uint64_t kQueueNotifyOffset = 0x50;  // virtio 1.2, 4.2.2
constexpr uint32_t kQueueNotifyWidth = 4;
constexpr uint32_t kSerialSectionIndex = 0;
}  // namespace

Machine::Machine(EventLoop& loop, Setup setup)
    : loop_(loop),
      config_(std::move(setup.config)),
      image_(std::move(setup.image)),
      on_end_(std::move(setup.on_end)),
      cpuid_(std::move(setup.cpuid)),
      serial_(setup.console_bytes, [this] { PulseLine(layout::kSerialIrq); }),
      reset_port_(
          [this] { on_end_({ErrorCode::kGuestReset, "guest reset", 0, "reset line pulsed"}); }) {}

Result<std::unique_ptr<Machine>> Machine::Build(Engine& engine, Setup setup, StageClock& clock) {
  std::unique_ptr<Machine> machine(new Machine(engine.NextLoop(), std::move(setup)));
  VMFORK_TRY(vm, engine.GetKvm().CreateVm());
  machine->vm_ = std::move(vm);
  clock.Lap("create_vm");
  VMFORK_CHECK(machine->MapMemory());
  clock.Lap("memory");
  // After the memory slots: with the interrupt controllers in place, adding a slot waits for an
  // SRCU grace period of several ms.
  VMFORK_CHECK(machine->vm_.CreateIrqchip());
  clock.Lap("irqchip");
  VMFORK_CHECK(machine->AddVcpus(engine, machine->cpuid_));
  clock.Lap("vcpus");
  VMFORK_CHECK(machine->AddDevices(engine));
  clock.Lap("devices");
  return machine;
}

Result<void> Machine::MapMemory() {
  VMFORK_TRY(view, PrivateView::Map(image_));
  view_ = std::move(view);
  memory_ = GuestMemory(layout::RamRegions(view_.Data(), view_.Size()));
  uint32_t slot = 0;
  for (const RamRegion& region : memory_.Regions()) {
    VMFORK_CHECK(vm_.SetMemory(slot++, region.start, region.size, region.host));
  }
  VMFORK_CHECK(vm_.SetIdentityMapAddress(layout::kIdentityMapPage));
  return vm_.SetTssAddress(layout::kTssPages);
}

Result<void> Machine::AddVcpus(const Engine& engine, const std::vector<kvm_cpuid_entry2>& cpuid) {
  for (uint32_t index = 0; index < config_.vcpus; ++index) {
    VMFORK_TRY(fd, vm_.CreateVcpu(index, engine.VcpuMappingSize()));
    VMFORK_CHECK(fd.SetCpuid(CpuidOf(cpuid, index)));
    vcpus_.push_back(std::make_unique<Vcpu>(std::move(fd), index, memory_, ports_, mmio_,
                                            [this](Error reason) { on_end_(std::move(reason)); }));
  }
  return {};
}

Result<void> Machine::AddDevices(Engine& engine) {
  ports_.Add(Serial::kPort, Serial::kPortCount, &serial_);
  ports_.Add(ResetPort::kPort, ResetPort::kPortCount, &reset_port_);
  VMFORK_TRY(doorbell, EventFd::Create());
  doorbell_ = std::move(doorbell);

  auto vsock = std::make_unique<VsockDevice>(loop_, config_.cid, kControlPort);
  vsock_ = vsock.get();
  VMFORK_CHECK(AddVirtio("vsock", std::move(vsock)));
  VMFORK_CHECK(AddVirtio("rng", std::make_unique<RngDevice>()));
  for (size_t i = 0; i < config_.disks.size(); ++i) {
    auto disk = std::make_unique<BlockDevice>(engine.DiskThreads(), BlockDevice::Access::kReadOnly,
                                              config_.disks[i]);
    VMFORK_CHECK(AddVirtio("disk" + std::to_string(i), std::move(disk)));
  }
  first_drive_ = slots_.size();
  for (size_t i = 0; i < kMediaSlots; ++i) VMFORK_CHECK(AddDrive(engine, i));
  VMFORK_CHECK(loop_.Add(doorbell_.Get(), EPOLLIN, this));
  doorbell_watched_ = true;
  return {};
}

Result<void> Machine::AddVirtio(std::string name, std::unique_ptr<VirtioDevice> device) {
  VMFORK_TRY(interrupt, EventFd::Create());
  Slot slot{.name = std::move(name),
            .interrupt = std::make_unique<EventFd>(std::move(interrupt)),
            .device = std::move(device),
            .transport = nullptr};
  slot.transport = std::make_unique<VirtioTransport>(*slot.device, memory_, *slot.interrupt, loop_);
  const auto line = static_cast<uint32_t>(layout::kFirstVirtioIrq + slots_.size());
  VMFORK_CHECK(vm_.AddIrqfd(*slot.interrupt, line));
  AddSlot(std::move(slot));
  return RingDoorbell(slots_.size() - 1);
}

// Most drives stay empty in most machines: an empty one costs no descriptor and no registration
// with KVM, which would be felt in every fork.
Result<void> Machine::AddDrive(Engine& engine, size_t index) {
  const auto access = index == 0 ? BlockDevice::Access::kReadOnly : BlockDevice::Access::kReadWrite;
  auto drive = std::make_unique<BlockDevice>(engine.DiskThreads(), access, config_.media[index]);
  drives_[index] = drive.get();
  Slot slot{.name = "drive" + std::to_string(index),
            .interrupt = nullptr,
            .device = std::move(drive),
            .transport = nullptr};
  const auto line = static_cast<uint32_t>(layout::kFirstVirtioIrq + slots_.size());
  slot.transport = std::make_unique<VirtioTransport>(
      *slot.device, memory_, [this, line] { PulseLine(line); }, loop_);
  AddSlot(std::move(slot));
  return config_.media[index].medium == nullptr ? Result<void>() : RingDoorbell(slots_.size() - 1);
}

void Machine::AddSlot(Slot slot) {
  const uint64_t base = layout::kMmioBase.value + slots_.size() * layout::kMmioStride;
  mmio_.Add(base, layout::kMmioStride, slot.transport.get());
  slots_.push_back(std::move(slot));
}

Result<void> Machine::RingDoorbell(size_t slot_index) {
  Slot& slot = slots_[slot_index];
  if (slot.rings_doorbell) return {};
  const uint64_t base = layout::kMmioBase.value + slot_index * layout::kMmioStride;
  VMFORK_CHECK(vm_.AddIoEventfd(doorbell_, Gpa{base + kQueueNotifyOffset}, kQueueNotifyWidth));
  slot.rings_doorbell = true;
  return {};
}

void Machine::PulseLine(uint32_t line) {
  std::lock_guard lock(pulse_mutex_);
  // Edge-triggered.
  if (vm_.SetIrqLine(line, true)) std::ignore = vm_.SetIrqLine(line, false);
}

Result<void> Machine::InsertDisk(size_t index, BlockDisk disk) {
  VMFORK_CHECK(RingDoorbell(first_drive_ + index));
  return drives_[index]->Insert(std::move(disk));
}

Machine::~Machine() {
  RequestStop();
  for (auto& vcpu : vcpus_) vcpu->Stop();
  if (doorbell_watched_) loop_.Remove(doorbell_.Get(), this);
  // Transports shut their devices down; nothing of this VM runs on the loop afterwards.
  for (Slot& slot : slots_) slot.transport.reset();
}

void Machine::OnEvents(uint32_t) {
  doorbell_.Drain();
  for (Slot& slot : slots_) slot.transport->Notify();
}

Result<void> Machine::StartVcpus() {
  for (auto& vcpu : vcpus_) VMFORK_CHECK(vcpu->Start());
  return {};
}

void Machine::RequestStop() {
  for (auto& vcpu : vcpus_) vcpu->RequestStop();
}

void Machine::Park() {
  for (auto& vcpu : vcpus_) vcpu->RequestPark();
  for (auto& vcpu : vcpus_) vcpu->WaitParked();
  for (Slot& slot : slots_) slot.transport->Pause();
}

void Machine::ResumeDevices() {
  for (Slot& slot : slots_) slot.transport->Resume();
}

void Machine::Unpark() {
  ResumeDevices();
  for (auto& vcpu : vcpus_) vcpu->Unpark();
}

std::string Machine::MmioCmdline() const {
  std::string text;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    char parameter[64];
    // Documentation/admin-guide/kernel-parameters.txt, virtio_mmio.device=<size>@<base>:<irq>
    std::snprintf(parameter, sizeof parameter, " virtio_mmio.device=4K@0x%" PRIx64 ":%u",
                  layout::kMmioBase.value + i * layout::kMmioStride, layout::kFirstVirtioIrq + i);
    text += parameter;
  }
  return text;
}

Result<MachineState> Machine::ReadState(const Engine& engine) {
  MachineState state;
  state.config = config_;
  for (size_t i = 0; i < kMediaSlots; ++i) state.config.media[i] = drives_[i]->Disk();
  state.host_kind = engine.Host().kind;
  state.cpu_vendor = engine.Host().cpu_vendor;
  state.cpuid = cpuid_;
  VMFORK_TRY(tsc_khz, BootVcpu().Fd().GetTscKhz());
  state.tsc_khz = tsc_khz;
  for (auto& vcpu : vcpus_) {
    VMFORK_TRY(vcpu_state, ReadVcpuState(vcpu->Fd(), engine.VcpuFormat()));
    state.vcpus.push_back(std::move(vcpu_state));
  }
  for (uint32_t chip = 0; chip < state.irqchips.size(); ++chip) {
    VMFORK_TRY(irqchip, vm_.GetIrqchip(chip));
    state.irqchips[chip] = irqchip;
  }
  VMFORK_TRY(clock, vm_.GetClock());
  state.clock = clock;
  // KVM_SET_CLOCK refuses flags that KVM_GET_CLOCK reports; 0 asks for exactly this value.
  state.clock.flags = 0;

  ByteWriter serial;
  serial_.Save(serial);
  state.devices.push_back({"serial", serial.Take()});
  for (Slot& slot : slots_) {
    ByteWriter bytes;
    slot.transport->Save(bytes);
    state.devices.push_back({slot.name, bytes.Take()});
  }
  return state;
}

Result<void> Machine::WriteState(const Engine& engine, const MachineState& state,
                                 StageClock& clock) {
  for (const kvm_irqchip& chip : state.irqchips) VMFORK_CHECK(vm_.SetIrqchip(chip));
  VMFORK_CHECK(vm_.SetClock(state.clock));
  clock.Lap("restore_irqchip_clock");
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    if (engine.HasTscControl()) VMFORK_CHECK(vcpus_[i]->Fd().SetTscKhz(state.tsc_khz));
    VMFORK_CHECK(WriteVcpuState(vcpus_[i]->Fd(), state.vcpus[i]));
  }
  clock.Lap("restore_vcpus");
  if (state.devices.size() != slots_.size() + 1) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore devices", "their number differs");
  }
  ByteReader serial(state.devices[kSerialSectionIndex].bytes);
  VMFORK_CHECK(serial_.Restore(serial));
  for (size_t i = 0; i < slots_.size(); ++i) {
    const DeviceState& device = state.devices[i + 1];
    if (device.name != slots_[i].name) {
      return Fail(ErrorCode::kSnapshotInvalid, "restore devices",
                  device.name + " instead of " + slots_[i].name);
    }
    ByteReader bytes(device.bytes);
    VMFORK_CHECK(slots_[i].transport->Restore(bytes));
  }
  clock.Lap("restore_devices");
  return {};
}

}  // namespace vmfork
