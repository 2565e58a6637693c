// Machine: the parts of a live VM and how they are wired. It knows how to be built, filled with
// state and taken down; when to do so is Vm's business.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "devices/bus.h"
#include "devices/reset_port.h"
#include "devices/serial.h"
#include "devices/virtio/block.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/vsock.h"
#include "snapshot/machine_state.h"
#include "vm/engine.h"
#include "vm/shell.h"
#include "vm/stage_clock.h"
#include "vm/start_queue.h"

namespace vmfork {

class Machine : private EventHandler {
 public:
  // The guest's control connection is dialled to this port of the host (docs/protocol.md).
  static constexpr uint32_t kControlPort = 1024;

  struct Setup {
    MachineConfig config;
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
  ~Machine() override;  // stops everything, gives the shell back

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
  void ResumeDevices();  // after WriteState(), when all is as it should be

  // The machine must be parked, or not started.
  Result<MachineState> ReadState();
  Result<void> WriteState(const MachineState& state, StageClock& clock);

  // Puts a disk into drive `index` below kMediaSlots; the guest is told. One call at a time.
  // Errors: kDisk, kSystem.
  Result<void> InsertDisk(size_t index, BlockDisk disk);
  Result<void> EjectDisk(size_t index) { return drives_[index]->Eject(); }
  BlockDisk Disk(size_t index) const { return drives_[index]->Disk(); }
  // See BlockDevice::Exchange().
  void ExchangeMedium(size_t index, std::shared_ptr<const BlockMedium> medium) {
    drives_[index]->Exchange(std::move(medium));
  }

  std::string MmioCmdline() const;  // how the guest's kernel is told of the devices
  const Shell& GetShell() const { return *shell_; }
  PrivateView& View() { return shell_->View(); }
  const GuestMemory& Memory() const { return shell_->Memory(); }
  const MachineConfig& Config() const { return config_; }
  Vcpu& BootVcpu() { return *shell_->Vcpus().front(); }
  Serial& Console() { return serial_; }
  VsockDevice& Vsock() { return *vsock_; }
  // VsockDevice::AttachControl(), with sockets that its shell may have.
  Result<UniqueFd> AttachControl(std::span<const std::byte> first);

 private:
  struct Slot {
    std::string name;
    std::unique_ptr<VirtioDevice> device;
    std::unique_ptr<VirtioTransport> transport;
  };

  Machine(Engine& engine, std::unique_ptr<Shell> shell, Setup setup);
  Result<void> AddDevices(Engine& engine);
  void AddVirtio(std::string name, std::unique_ptr<VirtioDevice> device);
  void PulseLine(uint32_t line);
  void OnEvents(uint32_t events) override;  // the doorbell

  const Engine::Resident resident_;
  StartQueue& starts_;
  ShellPool& shells_;
  const HostInfo& host_;
  MachineConfig config_;
  std::function<void(Error)> on_end_;

  // In order of construction: what is named later uses what is named earlier.
  std::unique_ptr<Shell> shell_;
  EventLoop& loop_;
  Bus ports_;
  Bus mmio_;
  Serial serial_;
  ResetPort reset_port_;
  std::atomic<bool> started_ = false;
  StartQueue::Place place_;
  std::vector<Slot> slots_;
  VsockDevice* vsock_ = nullptr;  // in slots_
  size_t first_drive_ = 0;        // in slots_; the drives are the last ones
  std::array<BlockDevice*, kMediaSlots> drives_{};
  std::mutex pulse_mutex_;  // a pulse must end before the next begins, or that one has no edge
};

}  // namespace vmfork
