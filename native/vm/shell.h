// Shell: everything of a VM that does not depend on a snapshot: KVM's objects, address space for
// its memory, vCPUs with their threads, the doorbell. It takes most of a fork's time to make one,
// so they are made ahead and used again (shell_pool.h).
#pragma once

#include <linux/kvm.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "base/result.h"
#include "devices/virtio/vsock_sockets.h"
#include "kvm/vm_fd.h"
#include "memory/early_pages.h"
#include "memory/guest_memory.h"
#include "memory/private_view.h"
#include "snapshot/machine_state.h"
#include "vcpu/vcpu.h"
#include "vcpu/vcpu_state.h"
#include "vm/devices.h"
#include "vm/doorbell.h"
#include "vm/stage_clock.h"

namespace vmfork {

class Engine;

// What a shell cannot change once it is made: two machines of one shape can use one shell.
struct ShellShape {
  uint64_t memory_bytes = 0;
  uint32_t vcpus = 1;
  size_t devices = 0;  // virtio devices whose notifications ring the doorbell from the start
  std::vector<kvm_cpuid_entry2> cpuid;

  bool operator==(const ShellShape& other) const;
};
using SharedShape = std::shared_ptr<const ShellShape>;

// What has to be written to bring processors and interrupt controllers from one state into another.
struct CoreChange {
  std::vector<VcpuChange> vcpus;
  std::array<bool, 3> irqchips{};
  bool tsc_khz = false;
};

// The state of processors and interrupt controllers.
struct CoreState {
  std::vector<VcpuState> vcpus;
  std::array<kvm_irqchip, 3> irqchips{};  // two PICs, one I/O APIC
  uint32_t tsc_khz = 0;                   // of all vCPUs; 0: it cannot be set here
  VcpuStateFormat format;                 // names the MSRs that a guest can change
  // What will probably be wanted of it, and how to get there: to find out reads 12 KiB twice. Weak,
  // because a shell may outlive the snapshot.
  std::weak_ptr<const MachineState> next;
  CoreChange to_next;
};

CoreChange FindCoreChange(const CoreState& now, const MachineState& wanted);

// What a shell at rest may hold, so that a fork of a snapshot with this state has little left to
// write: all of it but what counts time or refers to memory, which is `fresh`'s.
CoreState StateAtRest(const std::shared_ptr<const MachineState>& state, const CoreState& fresh);

// What a shell waits with for its next machine.
struct ShellContent {
  std::shared_ptr<const CoreState> cores;
  std::shared_ptr<const Image> image;  // null: no memory
  PagesAhead ahead;                    // of it
};

class Shell {
 public:
  // `fresh` may be null: then it is found out. Laps: see docs/tuning.md.
  static Result<std::unique_ptr<Shell>> Build(const Engine& engine, SharedShape shape,
                                              std::shared_ptr<const CoreState> fresh,
                                              StageClock& clock);

  // After a machine, with no owner and nothing running: gives the memory back and writes all of
  // `content` over what the guest left, so that nothing of it remains. Blocks for some hundred
  // microseconds. After an error the shell must not be used any more.
  Result<void> Recycle(const ShellContent& content);

  const SharedShape& Shape() const { return shape_; }
  // Of one that nobody has used: has it wait with `content`, as a recycled one does. *blocks*
  Result<void> Prime(const ShellContent& content);
  // Of one that waits: lets go of the memory that it was to show, of its sockets and devices.
  Result<void> HideMemory();
  // For a machine: its memory is `image` from now on, and its own. What the shell does not wait
  // with is put in place now.
  Result<void> ShowMemory(std::shared_ptr<const Image> image, const PagesAhead& ahead);
  // For a machine: sockets for its control channel, made ahead; invalid when there are none.
  VsockSockets TakeSockets() { return std::exchange(sockets_, {}); }
  // Of one that waits: with the devices of the machine that will probably be made of it, which hold
  // that state.
  void KeepDevices(std::unique_ptr<Devices> devices, std::shared_ptr<const MachineState> state);
  bool WaitsFor(const MachineState& state) const { return devices_state_.get() == &state; }
  // For a machine: those that hold just this state, if it waits with such; others are gone then.
  std::unique_ptr<Devices> TakeDevices(const MachineState* state);
  // For a machine that boots: processors and interrupt controllers as new.
  Result<void> MakeFresh();
  // How it was when it was new. The same for all shells of a shape on one host.
  const std::shared_ptr<const CoreState>& Fresh() const { return fresh_; }
  // How it is as long as nobody has used it.
  const CoreState& Now() const { return *now_; }
  const VmFd& Kvm() const { return vm_; }
  PrivateView& View() { return view_; }
  const GuestMemory& Memory() const { return memory_; }
  const std::vector<std::unique_ptr<Vcpu>>& Vcpus() const { return vcpus_; }
  Doorbell& Bell() const { return *doorbell_; }
  // Has device `index`'s queue-notify register ring the doorbell; else a notification is an exit of
  // the vCPU. Idempotent.
  Result<void> ConnectDoorbell(size_t index);

  Result<CoreState> ReadState(const VcpuStateFormat& format) const;

 private:
  explicit Shell(SharedShape shape) : shape_(std::move(shape)) {}
  Result<void> AddMemory(const Engine& engine);
  Result<void> AddVcpus(const Engine& engine);
  Result<void> DropShadowPages();
  Result<void> PrimeMemory(const ShellContent& content);
  void PutInPlace(const PagesAhead& ahead);
  Result<void> WriteCores(std::shared_ptr<const CoreState> state);

  const SharedShape shape_;
  std::shared_ptr<const CoreState> fresh_;
  std::shared_ptr<const CoreState> now_;
  // In order of construction: what is named later uses what is named earlier.
  VmFd vm_;
  PrivateView view_;
  bool untouched_ = true;  // the view's image is all there is in it
  GuestMemory memory_;
  std::unique_ptr<Doorbell> doorbell_;  // one for all devices
  std::vector<bool> connected_;
  VsockSockets sockets_;  // nobody has used them
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
  std::unique_ptr<Devices> devices_;
  std::shared_ptr<const MachineState> devices_state_;  // theirs
};

}  // namespace vmfork
