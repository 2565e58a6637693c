// Devices: all that a machine's guest finds on its buses, wired to the memory, interrupt lines and
// doorbell of a shell. To make and fill them takes a good part of a fork's time, so shells wait
// with theirs.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "devices/bus.h"
#include "devices/reset_port.h"
#include "devices/serial.h"
#include "devices/virtio/block.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/vsock.h"
#include "snapshot/machine_state.h"

namespace vmfork {

class Engine;
class Shell;

class Devices : private EventHandler {
 public:
  // The guest's control connection is dialled to this port of the host (docs/protocol.md).
  static constexpr uint32_t kControlPort = 1024;

  // As new, at rest, with the disks that `config` names. The shell must outlive them.
  static Result<std::unique_ptr<Devices>> Make(const Engine& engine, Shell& shell,
                                               const MachineConfig& config);
  // While no vCPU runs: nothing of them is left on the loop. *blocks*
  ~Devices() override;

  // How many ring the doorbell from the start, in a machine with so many disks.
  static size_t RingingAtStart(const MachineConfig& config);

  // For the machine that they are to serve: how much of the guest's output is kept, and what
  // happens when it pulses its reset line.
  void SetOwner(size_t console_bytes, std::function<void()> on_reset);

  // At rest only. Error: kSnapshotInvalid, after which they hold no state.
  Result<void> Restore(const MachineState& state);
  bool AreRestored() const { return restored_; }
  void Save(std::vector<DeviceState>& out);

  void Pause();
  void Resume();

  // Puts a disk into drive `index` below kMediaSlots; the guest is told. One call at a time.
  // Errors: kDisk, kSystem.
  Result<void> InsertDisk(size_t index, BlockDisk disk);
  BlockDevice& Drive(size_t index) const { return *drives_[index]; }

  const Bus& Ports() const { return ports_; }
  const Bus& Mmio() const { return mmio_; }
  Serial& Console() { return serial_; }
  VsockDevice& Vsock() { return *vsock_; }
  std::string MmioCmdline() const;  // how the guest's kernel is told of them

 private:
  struct Slot {
    std::string name;
    std::unique_ptr<VirtioDevice> device;
    std::unique_ptr<VirtioTransport> transport;
  };

  explicit Devices(Shell& shell);
  Result<void> AddAll(const Engine& engine, const MachineConfig& config);
  void Add(std::string name, std::unique_ptr<VirtioDevice> device);
  void PulseLine(uint32_t line);
  void OnEvents(uint32_t events) override;  // the doorbell

  Shell& shell_;
  EventLoop& loop_;
  Bus ports_;
  Bus mmio_;
  Serial serial_;
  ResetPort reset_port_;
  bool restored_ = false;
  std::vector<Slot> slots_;
  VsockDevice* vsock_ = nullptr;  // in slots_
  size_t first_drive_ = 0;        // in slots_; the drives are the last ones
  std::array<BlockDevice*, kMediaSlots> drives_{};
  std::mutex pulse_mutex_;  // a pulse must end before the next begins, or that one has no edge
};

}  // namespace vmfork
