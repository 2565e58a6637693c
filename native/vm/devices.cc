// Making and wiring the devices; their state in the order of the slots.
#include "vm/devices.h"

#include <cinttypes>
#include <cstdio>
#include <tuple>
#include <utility>

#include "devices/virtio/balloon.h"
#include "devices/virtio/rng.h"
#include "memory/layout.h"
#include "vm/engine.h"
#include "vm/shell.h"

namespace vmfork {

namespace {
// Where the serial port is in the list of states; the slots follow.
constexpr uint32_t kSerialSectionIndex = 0;
constexpr size_t kVsockRngBalloon = 3;
}  // namespace

Result<std::unique_ptr<Devices>> Devices::Make(const Engine& engine, Shell& shell,
                                               const MachineConfig& config) {
  std::unique_ptr<Devices> devices(new Devices(shell));
  VMFORK_CHECK(devices->AddAll(engine, config));
  return devices;
}

Devices::Devices(Shell& shell)
    : shell_(shell),
      loop_(shell.Bell().Loop()),
      serial_([this] { PulseLine(layout::kSerialIrq); }) {}

Devices::~Devices() {
  // In one go on the loop's thread, instead of a visit each.
  loop_.Run([this] {
    shell_.Bell().SetOwner(nullptr);
    for (Slot& slot : slots_) slot.transport->Retire();
  });
  loop_.Run([] {});  // what they had posted has run
}

size_t Devices::RingingAtStart(const MachineConfig& config) {
  return kVsockRngBalloon + config.disks.size();
}

Result<void> Devices::AddAll(const Engine& engine, const MachineConfig& config) {
  slots_.reserve(kVsockRngBalloon + config.disks.size() + kMediaSlots);
  ports_.Add(Serial::kPort, Serial::kPortCount, &serial_);
  ports_.Add(ResetPort::kPort, ResetPort::kPortCount, &reset_port_);

  auto vsock = std::make_unique<VsockDevice>(loop_, config.cid, kControlPort);
  vsock_ = vsock.get();
  Add("vsock", std::move(vsock));
  Add("rng", std::make_unique<RngDevice>());
  Add("balloon", std::make_unique<BalloonDevice>());
  for (size_t i = 0; i < config.disks.size(); ++i) {
    Add("disk" + std::to_string(i),
        std::make_unique<BlockDevice>(engine.DiskThreads(), BlockDevice::Access::kReadOnly,
                                      config.disks[i]));
  }
  first_drive_ = slots_.size();
  for (size_t i = 0; i < kMediaSlots; ++i) {
    const auto access = i == 0 ? BlockDevice::Access::kReadOnly : BlockDevice::Access::kReadWrite;
    auto drive = std::make_unique<BlockDevice>(engine.DiskThreads(), access, config.media[i]);
    drives_[i] = drive.get();
    Add("drive" + std::to_string(i), std::move(drive));
    // Most drives stay empty in most machines: an empty one costs no registration with KVM.
    if (config.media[i].medium != nullptr) VMFORK_CHECK(shell_.ConnectDoorbell(first_drive_ + i));
  }
  shell_.Bell().SetOwner(this);
  return {};
}

void Devices::Add(std::string name, std::unique_ptr<VirtioDevice> device) {
  const auto line = static_cast<uint32_t>(layout::kFirstVirtioIrq + slots_.size());
  const uint64_t base = layout::kMmioBase.value + slots_.size() * layout::kMmioStride;
  auto transport = std::make_unique<VirtioTransport>(
      *device, shell_.Memory(), [this, line] { PulseLine(line); }, loop_);
  mmio_.Add(base, layout::kMmioStride, transport.get());
  slots_.push_back({std::move(name), std::move(device), std::move(transport)});
}

void Devices::SetOwner(size_t console_bytes, std::function<void()> on_reset) {
  serial_.SetCapacity(console_bytes);
  reset_port_.SetOwner(std::move(on_reset));
}

// By ioctl, not by an irqfd: for a line of the I/O APIC that would go by way of a kernel thread
// (kvm_arch_set_irq_inatomic() in arch/x86/kvm/irq_comm.c), later, and after the machine has ended.
void Devices::PulseLine(uint32_t line) {
  std::lock_guard lock(pulse_mutex_);
  // Edge-triggered.
  if (shell_.Kvm().SetIrqLine(line, true)) std::ignore = shell_.Kvm().SetIrqLine(line, false);
}

void Devices::OnEvents(uint32_t) {
  for (Slot& slot : slots_) slot.transport->Notify();
}

Result<void> Devices::InsertDisk(size_t index, BlockDisk disk) {
  VMFORK_CHECK(shell_.ConnectDoorbell(first_drive_ + index));
  return drives_[index]->Insert(std::move(disk));
}

void Devices::Pause() {
  for (Slot& slot : slots_) slot.transport->Pause();
}

void Devices::Resume() {
  for (Slot& slot : slots_) slot.transport->Resume();
}

std::string Devices::MmioCmdline() const {
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

void Devices::Save(std::vector<DeviceState>& out) {
  ByteWriter serial;
  serial_.Save(serial);
  out.push_back({"serial", serial.Take()});
  for (Slot& slot : slots_) {
    ByteWriter bytes;
    slot.transport->Save(bytes);
    out.push_back({slot.name, bytes.Take()});
  }
}

Result<void> Devices::Restore(const MachineState& state) {
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
  restored_ = true;
  return {};
}

}  // namespace vmfork
