// Building, filling and stopping a machine.
#include "vm/machine.h"

#include <sys/epoll.h>

#include <cinttypes>
#include <cstdio>
#include <utility>

#include "devices/virtio/balloon.h"
#include "devices/virtio/rng.h"
#include "memory/layout.h"

namespace vmfork {

namespace {
constexpr uint32_t kSerialSectionIndex = 0;
constexpr size_t kVsockRngBalloon = 3;
}  // namespace

Machine::Machine(Engine& engine, std::unique_ptr<Shell> shell, Setup setup)
    : resident_(engine),
      starts_(engine.Starts()),
      shells_(engine.Shells()),
      host_(engine.Host()),
      config_(std::move(setup.config)),
      on_end_(std::move(setup.on_end)),
      shell_(std::move(shell)),
      loop_(shell_->Bell().Loop()),
      serial_(setup.console_bytes, [this] { PulseLine(layout::kSerialIrq); }),
      reset_port_(
          [this] { on_end_({ErrorCode::kGuestReset, "guest reset", 0, "reset line pulsed"}); }) {}

SharedShape Machine::Shape(const MachineConfig& config, std::vector<kvm_cpuid_entry2> cpuid) {
  return std::make_shared<const ShellShape>(
      ShellShape{.memory_bytes = config.memory_bytes,
                 .vcpus = config.vcpus,
                 .devices = kVsockRngBalloon + config.disks.size(),
                 .cpuid = std::move(cpuid)});
}

Result<std::unique_ptr<Machine>> Machine::Build(Engine& engine, std::unique_ptr<Shell> shell,
                                                Setup setup, StageClock& clock) {
  const std::shared_ptr<const Image> image = std::move(setup.image);
  const PagesAhead ahead = std::move(setup.ahead);
  std::unique_ptr<Machine> machine(new Machine(engine, std::move(shell), std::move(setup)));
  VMFORK_CHECK(machine->shell_->ShowMemory(image, ahead));
  clock.Lap("memory");
  VMFORK_CHECK(machine->AddDevices(engine));
  clock.Lap("devices");
  return machine;
}

Result<void> Machine::AddDevices(Engine& engine) {
  slots_.reserve(kVsockRngBalloon + config_.disks.size() + kMediaSlots);
  ports_.Add(Serial::kPort, Serial::kPortCount, &serial_);
  ports_.Add(ResetPort::kPort, ResetPort::kPortCount, &reset_port_);

  auto vsock = std::make_unique<VsockDevice>(loop_, config_.cid, kControlPort);
  vsock_ = vsock.get();
  AddVirtio("vsock", std::move(vsock));
  AddVirtio("rng", std::make_unique<RngDevice>());
  AddVirtio("balloon", std::make_unique<BalloonDevice>());
  for (size_t i = 0; i < config_.disks.size(); ++i) {
    AddVirtio("disk" + std::to_string(i),
              std::make_unique<BlockDevice>(engine.DiskThreads(), BlockDevice::Access::kReadOnly,
                                            config_.disks[i]));
  }
  first_drive_ = slots_.size();
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const auto access = i == 0 ? BlockDevice::Access::kReadOnly : BlockDevice::Access::kReadWrite;
    const bool is_filled = config_.media[i].medium != nullptr;
    // Its own from now on: what is taken out of the drive, nobody shall hold on to.
    auto drive = std::make_unique<BlockDevice>(engine.DiskThreads(), access,
                                               std::exchange(config_.media[i], {}));
    drives_[i] = drive.get();
    AddVirtio("drive" + std::to_string(i), std::move(drive));
    // Most drives stay empty in most machines: an empty one costs no registration with KVM.
    if (is_filled) VMFORK_CHECK(shell_->ConnectDoorbell(first_drive_ + i));
  }
  for (const auto& vcpu : shell_->Vcpus()) {
    vcpu->SetOwner(
        {.memory = &Memory(), .ports = &ports_, .mmio = &mmio_, .on_end = [this](Error reason) {
           on_end_(std::move(reason));
         }});
  }
  shell_->Bell().SetOwner(this);
  return {};
}

void Machine::AddVirtio(std::string name, std::unique_ptr<VirtioDevice> device) {
  const auto line = static_cast<uint32_t>(layout::kFirstVirtioIrq + slots_.size());
  const uint64_t base = layout::kMmioBase.value + slots_.size() * layout::kMmioStride;
  auto transport = std::make_unique<VirtioTransport>(
      *device, Memory(), [this, line] { PulseLine(line); }, loop_);
  mmio_.Add(base, layout::kMmioStride, transport.get());
  slots_.push_back({std::move(name), std::move(device), std::move(transport)});
}

// By ioctl, not by an irqfd: for a line of the I/O APIC that would go by way of a kernel thread
// (kvm_arch_set_irq_inatomic() in arch/x86/kvm/irq_comm.c), later, and after the machine has ended.
void Machine::PulseLine(uint32_t line) {
  std::lock_guard lock(pulse_mutex_);
  // Edge-triggered.
  if (shell_->Kvm().SetIrqLine(line, true)) std::ignore = shell_->Kvm().SetIrqLine(line, false);
}

Result<void> Machine::InsertDisk(size_t index, BlockDisk disk) {
  VMFORK_CHECK(shell_->ConnectDoorbell(first_drive_ + index));
  return drives_[index]->Insert(std::move(disk));
}

Machine::~Machine() {
  RequestStop();
  bool reusable = true;
  for (const auto& vcpu : shell_->Vcpus()) reusable = vcpu->Stop() && reusable;
  for (const auto& vcpu : shell_->Vcpus()) vcpu->Disown();
  for (Slot& slot : slots_) slot.transport->Pause();
  // In one go on the loop's thread, instead of a visit each.
  loop_.Run([this] {
    shell_->Bell().SetOwner(nullptr);
    for (Slot& slot : slots_) slot.transport->Retire();
  });
  loop_.Run([] {});  // what they had posted has run; nothing of this machine is on the loop
  if (reusable) shells_.Give(std::move(shell_), started_);
}

void Machine::OnEvents(uint32_t) {
  for (Slot& slot : slots_) slot.transport->Notify();
}

void Machine::StartVcpus() {
  for (const auto& vcpu : shell_->Vcpus()) vcpu->Unpark();
}

void Machine::StartInTurn(const kvm_clock_data& clock) {
  starts_.Enter(place_, [this, clock](bool has_waited) {
    // Else the guest would find that it has slept, and make up for all ticks of that time. It could
    // be set before, so it can be now.
    if (has_waited) std::ignore = shell_->Kvm().SetClock(clock);
    StartVcpus();
  });
}

Result<UniqueFd> Machine::AttachControl(std::span<const std::byte> first) {
  return vsock_->AttachControl(shell_->TakeSockets(), first, [this] { starts_.Leave(place_); });
}

void Machine::RequestStop() {
  starts_.Leave(place_);
  for (const auto& vcpu : shell_->Vcpus()) vcpu->RequestStop();
}

void Machine::Park() {
  starts_.Leave(place_);
  for (const auto& vcpu : shell_->Vcpus()) vcpu->RequestPark();
  for (const auto& vcpu : shell_->Vcpus()) vcpu->WaitParked();
  for (Slot& slot : slots_) slot.transport->Pause();
}

void Machine::ResumeDevices() {
  for (Slot& slot : slots_) slot.transport->Resume();
}

void Machine::Unpark() {
  ResumeDevices();
  StartVcpus();
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

Result<MachineState> Machine::ReadState() {
  MachineState state;
  state.config = config_;
  for (size_t i = 0; i < kMediaSlots; ++i) state.config.media[i] = drives_[i]->Disk();
  state.host_kind = host_.kind;
  state.cpu_vendor = host_.cpu_vendor;
  state.cpuid = shell_->Shape()->cpuid;
  VMFORK_TRY(tsc_khz, BootVcpu().Fd().GetTscKhz());
  state.tsc_khz = tsc_khz;
  for (const auto& vcpu : shell_->Vcpus()) {
    VMFORK_TRY(vcpu_state, ReadVcpuState(vcpu->Fd(), shell_->Fresh()->format));
    state.vcpus.push_back(std::move(vcpu_state));
  }
  for (uint32_t chip = 0; chip < state.irqchips.size(); ++chip) {
    VMFORK_TRY(irqchip, shell_->Kvm().GetIrqchip(chip));
    state.irqchips[chip] = irqchip;
  }
  VMFORK_TRY(clock, shell_->Kvm().GetClock());
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

Result<void> Machine::WriteState(const MachineState& state, StageClock& clock) {
  const CoreState& now = shell_->Now();
  const bool is_foreseen = now.next.lock().get() == &state;
  const CoreChange found = is_foreseen ? CoreChange{} : FindCoreChange(now, state);
  const CoreChange& change = is_foreseen ? now.to_next : found;
  for (size_t i = 0; i < state.irqchips.size(); ++i)
    if (change.irqchips[i]) VMFORK_CHECK(shell_->Kvm().SetIrqchip(state.irqchips[i]));
  VMFORK_CHECK(shell_->Kvm().SetClock(state.clock));
  clock.Lap("restore_irqchip_clock");
  for (size_t i = 0; i < state.vcpus.size(); ++i) {
    const VcpuFd& vcpu = shell_->Vcpus()[i]->Fd();
    if (change.tsc_khz) VMFORK_CHECK(vcpu.SetTscKhz(state.tsc_khz));
    VMFORK_CHECK(WriteVcpuState(vcpu, state.vcpus[i], change.vcpus[i]));
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
