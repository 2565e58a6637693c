// Building, filling and stopping a machine.
#include "vm/machine.h"

#include <utility>

namespace vmfork {

Machine::Machine(Engine& engine, std::unique_ptr<Shell> shell, Setup setup)
    : resident_(engine),
      starts_(engine.Starts()),
      shells_(engine.Shells()),
      host_(engine.Host()),
      config_(std::move(setup.config)),
      on_end_(std::move(setup.on_end)),
      shell_(std::move(shell)) {}

SharedShape Machine::Shape(const MachineConfig& config, std::vector<kvm_cpuid_entry2> cpuid) {
  return std::make_shared<const ShellShape>(ShellShape{.memory_bytes = config.memory_bytes,
                                                       .vcpus = config.vcpus,
                                                       .devices = Devices::RingingAtStart(config),
                                                       .cpuid = std::move(cpuid)});
}

Result<std::unique_ptr<Machine>> Machine::Build(Engine& engine, std::unique_ptr<Shell> shell,
                                                Setup setup, StageClock& clock) {
  const std::shared_ptr<const Image> image = std::move(setup.image);
  const PagesAhead ahead = std::move(setup.ahead);
  const MachineState* const state = setup.state;
  const size_t console_bytes = setup.console_bytes;
  std::unique_ptr<Machine> machine(new Machine(engine, std::move(shell), std::move(setup)));
  VMFORK_CHECK(machine->shell_->ShowMemory(image, ahead));
  clock.Lap("memory");
  VMFORK_CHECK(machine->AddDevices(engine, state, console_bytes));
  clock.Lap("devices");
  return machine;
}

Result<void> Machine::AddDevices(const Engine& engine, const MachineState* state,
                                 size_t console_bytes) {
  devices_ = shell_->TakeDevices(state);
  if (devices_ == nullptr) {
    VMFORK_TRY(devices, Devices::Make(engine, *shell_, config_));
    devices_ = std::move(devices);
  }
  config_.media = {};  // what is taken out of a drive, nobody shall hold on to
  devices_->SetOwner(console_bytes, [this] {
    on_end_({ErrorCode::kGuestReset, "guest reset", 0, "reset line pulsed"});
  });
  for (const auto& vcpu : shell_->Vcpus()) {
    vcpu->SetOwner({.memory = &Memory(),
                    .ports = &devices_->Ports(),
                    .mmio = &devices_->Mmio(),
                    .on_end = [this](Error reason) { on_end_(std::move(reason)); }});
  }
  return {};
}

Machine::~Machine() {
  RequestStop();
  bool reusable = true;
  for (const auto& vcpu : shell_->Vcpus()) reusable = vcpu->Stop() && reusable;
  for (const auto& vcpu : shell_->Vcpus()) vcpu->Disown();
  if (devices_ != nullptr) {
    devices_->Pause();
    devices_.reset();
  }
  if (reusable) shells_.Give(std::move(shell_), started_);
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
  return devices_->Vsock().AttachControl(shell_->TakeSockets(), first,
                                         [this] { starts_.Leave(place_); });
}

void Machine::RequestStop() {
  starts_.Leave(place_);
  for (const auto& vcpu : shell_->Vcpus()) vcpu->RequestStop();
}

void Machine::Park() {
  starts_.Leave(place_);
  for (const auto& vcpu : shell_->Vcpus()) vcpu->RequestPark();
  for (const auto& vcpu : shell_->Vcpus()) vcpu->WaitParked();
  devices_->Pause();
}

void Machine::Unpark() {
  ResumeDevices();
  StartVcpus();
}

Result<MachineState> Machine::ReadState() {
  MachineState state;
  state.config = config_;
  for (size_t i = 0; i < kMediaSlots; ++i) state.config.media[i] = Disk(i);
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

  devices_->Save(state.devices);
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
  if (!devices_->AreRestored()) VMFORK_CHECK(devices_->Restore(state));
  clock.Lap("restore_devices");
  return {};
}

}  // namespace vmfork
