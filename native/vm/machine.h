// Machine: the parts of a live VM and how they are wired. It knows how to be built, filled with
// state and taken down; when to do so is Vm's business.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "snapshot/machine_state.h"
#include "vm/devices.h"
#include "vm/engine.h"
#include "vm/shell.h"
#include "vm/stage_clock.h"
#include "vm/start_queue.h"

namespace vmfork {

class Machine {
 public:
  static constexpr uint32_t kControlPort = Devices::kControlPort;

  struct Setup {
    MachineConfig config;
    const MachineState* state = nullptr;  // what it will be given, if any
    std::shared_ptr<const Image> image;
    PagesAhead ahead;  // of an image that the shell does not show yet
    size_t console_bytes = 0;
    std::function<void(Error)>
        on_end;  // the guest cannot go on; any vCPU's thread, possibly several times
  };

  // What the shell of such a machine must be like.
  static SharedShape Shape(const MachineConfig& config, std::vector<kvm_cpuid_entry2> cpuid);
  // A VM with memory, interrupt controllers, vCPUs and devices, none of it running. Laps: see
  // docs/tuning.md.
  static Result<std::unique_ptr<Machine>> Build(Engine& engine, std::unique_ptr<Shell> shell,
                                                Setup setup, StageClock& clock);
  ~Machine();  // stops everything, gives the shell back

  void StartVcpus();
  // The same when its turn comes (Engine::Starts()), which ends when it answers on its control
  // channel. Its clock goes on from `clock` then.
  void StartInTurn(const kvm_clock_data& clock);
  // The guest is up.
  void NoteStarted() { started_ = true; }
  bool IsStarted() const { return started_; }
  // Ends guest execution without waiting for it.
  void RequestStop();
  void Park();  // vCPUs out of the guest, devices still
  void Unpark();
  void ResumeDevices() { devices_->Resume(); }  // after WriteState(), when all is as it should be

  // The machine must be parked, or not started.
  Result<MachineState> ReadState();
  Result<void> WriteState(const MachineState& state, StageClock& clock);

  // Puts a disk into drive `index` below kMediaSlots; the guest is told. One call at a time.
  // Errors: kDisk, kSystem.
  Result<void> InsertDisk(size_t index, BlockDisk disk) {
    return devices_->InsertDisk(index, std::move(disk));
  }
  Result<void> EjectDisk(size_t index) { return devices_->Drive(index).Eject(); }
  BlockDisk Disk(size_t index) const { return devices_->Drive(index).Disk(); }
  // See BlockDevice::Exchange().
  void ExchangeMedium(size_t index, std::shared_ptr<const BlockMedium> medium) {
    devices_->Drive(index).Exchange(std::move(medium));
  }

  std::string MmioCmdline() const { return devices_->MmioCmdline(); }
  const Shell& GetShell() const { return *shell_; }
  PrivateView& View() { return shell_->View(); }
  const GuestMemory& Memory() const { return shell_->Memory(); }
  const MachineConfig& Config() const { return config_; }
  Vcpu& BootVcpu() { return *shell_->Vcpus().front(); }
  Serial& Console() { return devices_->Console(); }
  VsockDevice& Vsock() { return devices_->Vsock(); }
  // VsockDevice::AttachControl(), with sockets that its shell may have.
  Result<UniqueFd> AttachControl(std::span<const std::byte> first);

 private:
  Machine(Engine& engine, std::unique_ptr<Shell> shell, Setup setup);
  Result<void> AddDevices(const Engine& engine, const MachineState* state, size_t console_bytes);

  const Engine::Resident resident_;
  StartQueue& starts_;
  ShellPool& shells_;
  const HostInfo& host_;
  MachineConfig config_;
  std::function<void(Error)> on_end_;

  // In order of construction: what is named later uses what is named earlier.
  std::unique_ptr<Shell> shell_;
  std::unique_ptr<Devices> devices_;
  std::atomic<bool> started_ = false;
  StartQueue::Place place_;
};

}  // namespace vmfork
