// Machine: the parts of a live VM and how they are wired. It knows how to be built, filled with
// state and taken down; when to do so is Vm's business.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_fd.h"
#include "base/event_loop.h"
#include "devices/bus.h"
#include "devices/reset_port.h"
#include "devices/serial.h"
#include "devices/virtio/block.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/vsock.h"
#include "kvm/vm_fd.h"
#include "memory/guest_memory.h"
#include "memory/private_view.h"
#include "snapshot/machine_state.h"
#include "vcpu/vcpu.h"
#include "vm/engine.h"
#include "vm/stage_clock.h"

namespace vmfork {

class Machine : private EventHandler {
 public:
  // The guest's control connection is dialled to this port of the host (docs/protocol.md).
  static constexpr uint32_t kControlPort = 1024;

  struct Setup {
    MachineConfig config;
    std::shared_ptr<const Image> image;
    std::vector<kvm_cpuid_entry2> cpuid;
    size_t console_bytes = 0;
    std::function<void(Error)>
        on_end;  // the guest cannot go on; any vCPU's thread, possibly several times
  };

  // A VM with memory, interrupt controllers, vCPUs and devices, none of it running. Laps: see
  // docs/tuning.md.
  static Result<std::unique_ptr<Machine>> Build(Engine& engine, Setup setup, StageClock& clock);
  ~Machine() override;  // stops everything

  Result<void> StartVcpus();
  // Ends guest execution without waiting for it.
  void RequestStop();
  void Park();  // vCPUs out of the guest, devices still
  void Unpark();
  void ResumeDevices();  // after WriteState(), when all is as it should be

  // The machine must be parked, or not started.
  Result<MachineState> ReadState(const Engine& engine);
  Result<void> WriteState(const Engine& engine, const MachineState& state, StageClock& clock);

  // Puts a disk into drive `index` below kMediaSlots; the guest is told. One call at a time.
  // Errors: kDisk, kSystem.
  Result<void> InsertDisk(size_t index, BlockDisk disk);
  Result<void> EjectDisk(size_t index) { return drives_[index]->Eject(); }

  std::string MmioCmdline() const;  // how the guest's kernel is told of the devices
  PrivateView& View() { return view_; }
  const GuestMemory& Memory() const { return memory_; }
  const MachineConfig& Config() const { return config_; }
  Vcpu& BootVcpu() { return *vcpus_.front(); }
  Serial& Console() { return serial_; }
  VsockDevice& Vsock() { return *vsock_; }

 private:
  struct Slot {
    std::string name;
    std::unique_ptr<EventFd> interrupt;  // null: the line is pulsed by ioctl
    std::unique_ptr<VirtioDevice> device;
    std::unique_ptr<VirtioTransport> transport;
    bool rings_doorbell = false;  // else a notification is an exit of the vCPU
  };

  Machine(EventLoop& loop, Setup setup);
  Result<void> MapMemory();
  Result<void> AddVcpus(const Engine& engine, const std::vector<kvm_cpuid_entry2>& cpuid);
  Result<void> AddDevices(Engine& engine);
  Result<void> AddVirtio(std::string name, std::unique_ptr<VirtioDevice> device);
  Result<void> AddDrive(Engine& engine, size_t index);
  void AddSlot(Slot slot);
  Result<void> RingDoorbell(size_t slot_index);
  void PulseLine(uint32_t line);
  void OnEvents(uint32_t events) override;  // the doorbell

  EventLoop& loop_;
  MachineConfig config_;
  std::shared_ptr<const Image> image_;
  std::function<void(Error)> on_end_;
  std::vector<kvm_cpuid_entry2> cpuid_;

  // In order of construction: what is named later uses what is named earlier.
  VmFd vm_;
  PrivateView view_;
  GuestMemory memory_;
  Bus ports_;
  Bus mmio_;
  Serial serial_;
  ResetPort reset_port_;
  EventFd doorbell_;  // one for all devices: their queue-notify registers all signal it
  bool doorbell_watched_ = false;
  std::vector<Slot> slots_;
  VsockDevice* vsock_ = nullptr;  // in slots_
  size_t first_drive_ = 0;        // in slots_; the drives are the last ones
  std::array<BlockDevice*, kMediaSlots> drives_{};
  std::mutex pulse_mutex_;  // a pulse must end before the next begins, or that one has no edge
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace vmfork
