// Registers and the status machine (virtio 1.2, sections 2.1, 3.1 and 4.2.2).
#include "devices/virtio/mmio_transport.h"

#define VIRTIO_RING_NO_LEGACY 1
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <cstring>

namespace vmfork {

namespace {
constexpr uint32_t kMagic = 0x74726976;  // "virt"
constexpr uint32_t kVersion = 2;
constexpr uint32_t kVendor = 0x4b464d56;  // "VMFK"
constexpr uint64_t kRingFeatures = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << 28 | 1ULL << 29;

void SetLow(uint64_t& value, uint32_t part) { value = (value & ~0xffff'ffffULL) | part; }
void SetHigh(uint64_t& value, uint32_t part) { value = (value & 0xffff'ffffULL) | uint64_t{part} << 32; }
}  // namespace

VirtioTransport::VirtioTransport(VirtioDevice& device, const GuestMemory& memory, const EventFd& interrupt, EventLoop& loop)
    : device_(device), memory_(memory), interrupt_(interrupt), loop_(loop) {
  for (uint16_t size : device.QueueSizes()) queues_.emplace_back(size);
  registers_.resize(queues_.size());
  device_.Attach(this);
}

VirtioTransport::~VirtioTransport() {
  device_.Shutdown();
  loop_.Run([alive = alive_] { *alive = false; });
}

uint64_t VirtioTransport::Offered() const { return device_.OfferedFeatures() | kRingFeatures; }

bool VirtioTransport::Running() const {
  constexpr uint32_t kLive = VIRTIO_CONFIG_S_DRIVER_OK;
  return !paused_ && (status_ & (kLive | VIRTIO_CONFIG_S_NEEDS_RESET)) == kLive;
}

void VirtioTransport::Leave() {
  CheckQueues();
  const bool raise = raise_;
  raise_ = false;
  mutex_.unlock();
  if (raise) interrupt_.Signal();
}

void VirtioTransport::Raise(uint32_t cause) {
  interrupt_status_ |= cause;
  raise_ = true;
}

void VirtioTransport::CheckQueues() {
  for (Virtqueue& queue : queues_) {
    if (queue.Ready() && queue.TakeInterrupt()) Raise(VIRTIO_MMIO_INT_VRING);
    if (queue.BrokenReason() != nullptr && (status_ & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) {
      status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
      ConfigChanged();
    }
  }
}

void VirtioTransport::ConfigChanged() {
  ++config_generation_;
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Raise(VIRTIO_MMIO_INT_CONFIG);
}

void VirtioTransport::ScheduleWork() {
  loop_.Post([this, alive = alive_] {
    if (*alive) Notify();
  });
}

void VirtioTransport::Process() {
  if (Running()) device_.ProcessQueues();
}

void VirtioTransport::Notify() {
  DeviceLock lock(*this);
  Process();
}

void VirtioTransport::Pause() {
  DeviceLock lock(*this);
  paused_ = true;
}

void VirtioTransport::Resume() {
  DeviceLock lock(*this);
  paused_ = false;
  if (Running()) device_.Resume();
}

void VirtioTransport::Read(uint64_t offset, std::span<std::byte> data) {
  DeviceLock lock(*this);
  if (offset >= VIRTIO_MMIO_CONFIG) return device_.ReadConfig(offset - VIRTIO_MMIO_CONFIG, data);
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  const uint32_t value = ReadRegister(offset);
  std::memcpy(data.data(), &value, sizeof value);
}

void VirtioTransport::Write(uint64_t offset, std::span<const std::byte> data) {
  DeviceLock lock(*this);
  if (offset >= VIRTIO_MMIO_CONFIG) return device_.WriteConfig(offset - VIRTIO_MMIO_CONFIG, data);
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof value);
  WriteRegister(offset, value);
}

uint32_t VirtioTransport::ReadRegister(uint64_t offset) const {
  const bool known = queue_select_ < queues_.size();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE: return kMagic;
    case VIRTIO_MMIO_VERSION: return kVersion;
    case VIRTIO_MMIO_DEVICE_ID: return device_.DeviceId();
    case VIRTIO_MMIO_VENDOR_ID: return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      return device_features_select_ > 1 ? 0 : static_cast<uint32_t>(Offered() >> (32 * device_features_select_));
    case VIRTIO_MMIO_QUEUE_NUM_MAX: return known ? queues_[queue_select_].MaxSize() : 0;
    case VIRTIO_MMIO_QUEUE_READY: return known && registers_[queue_select_].ready ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS: return interrupt_status_;
    case VIRTIO_MMIO_STATUS: return status_;
    case VIRTIO_MMIO_CONFIG_GENERATION: return config_generation_;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH: return 0xffff'ffff;
    default: return 0;
  }
}

void VirtioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL: device_features_select_ = value; return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL: driver_features_select_ = value; return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      if ((status_ & VIRTIO_CONFIG_S_DRIVER) == 0 || (status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) return;
      if (driver_features_select_ == 0) SetLow(driver_features_, value);
      if (driver_features_select_ == 1) SetHigh(driver_features_, value);
      return;
    case VIRTIO_MMIO_QUEUE_SEL: queue_select_ = value; return;
    case VIRTIO_MMIO_QUEUE_NOTIFY: return Process();
    case VIRTIO_MMIO_INTERRUPT_ACK: interrupt_status_ &= ~value; return;
    case VIRTIO_MMIO_STATUS: return WriteStatus(value);
    default: return WriteQueueRegister(offset, value);
  }
}

bool VirtioTransport::QueueMayChange() const {
  constexpr uint32_t kConfigured = VIRTIO_CONFIG_S_FEATURES_OK, kLive = VIRTIO_CONFIG_S_DRIVER_OK;
  return queue_select_ < queues_.size() && (status_ & (kConfigured | kLive)) == kConfigured;
}

void VirtioTransport::WriteQueueRegister(uint64_t offset, uint32_t value) {
  if (!QueueMayChange()) return;
  QueueRegisters& registers = registers_[queue_select_];
  if (offset == VIRTIO_MMIO_QUEUE_READY) return SetQueueReady(value == 1);
  if (registers.ready) return;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM: registers.size = value; return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW: return SetLow(registers.descriptors, value);
    case VIRTIO_MMIO_QUEUE_DESC_HIGH: return SetHigh(registers.descriptors, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW: return SetLow(registers.available, value);
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH: return SetHigh(registers.available, value);
    case VIRTIO_MMIO_QUEUE_USED_LOW: return SetLow(registers.used, value);
    case VIRTIO_MMIO_QUEUE_USED_HIGH: return SetHigh(registers.used, value);
    default: return;
  }
}

void VirtioTransport::SetQueueReady(bool ready) {
  QueueRegisters& registers = registers_[queue_select_];
  Virtqueue& queue = queues_[queue_select_];
  registers.ready = false;
  queue.Disable();
  if (!ready || registers.size > queue.MaxSize()) return;
  registers.ready = queue.Enable(memory_,
                                 {static_cast<uint16_t>(registers.size), Gpa{registers.descriptors},
                                  Gpa{registers.available}, Gpa{registers.used}},
                                 driver_features_);
}

void VirtioTransport::WriteStatus(uint32_t value) {
  if (value == 0) return ResetAll();
  if ((value & ~0xffU) != 0 || (value & status_) != (status_ & ~uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET})) return;
  uint32_t added = value & ~status_;
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    const bool acceptable = (driver_features_ & ~Offered()) == 0 && (driver_features_ >> VIRTIO_F_VERSION_1 & 1) != 0;
    if (!acceptable || (value & VIRTIO_CONFIG_S_DRIVER) == 0) added &= ~uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
  }
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0) {
    added &= ~uint32_t{VIRTIO_CONFIG_S_DRIVER_OK};
  }
  status_ |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0) {
    device_.Activate(driver_features_);
    Process();
  }
}

void VirtioTransport::ResetAll() {
  for (Virtqueue& queue : queues_) queue.Disable();
  registers_.assign(registers_.size(), {});
  status_ = interrupt_status_ = 0;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  raise_ = false;
  device_.Reset();
}

void VirtioTransport::Save(ByteWriter& out) {
  DeviceLock lock(*this);
  out.Put(status_);
  out.Put(interrupt_status_);
  out.Put(device_features_select_);
  out.Put(driver_features_select_);
  out.Put(queue_select_);
  out.Put(driver_features_);
  out.Put(config_generation_);
  for (size_t i = 0; i < queues_.size(); ++i) {
    out.PutStruct(registers_[i]);
    queues_[i].Save(out);
  }
  device_.Save(out);
}

Result<void> VirtioTransport::Restore(ByteReader& in) {
  DeviceLock lock(*this);
  paused_ = true;
  status_ = in.Get<uint32_t>();
  interrupt_status_ = in.Get<uint32_t>();
  device_features_select_ = in.Get<uint32_t>();
  driver_features_select_ = in.Get<uint32_t>();
  queue_select_ = in.Get<uint32_t>();
  driver_features_ = in.Get<uint64_t>();
  config_generation_ = in.Get<uint32_t>();
  for (size_t i = 0; i < queues_.size(); ++i) {
    registers_[i] = in.GetStruct<QueueRegisters>();
    QueueRegisters& r = registers_[i];
    if (r.ready && (r.size > queues_[i].MaxSize() ||
                    !queues_[i].Enable(memory_, {static_cast<uint16_t>(r.size), Gpa{r.descriptors}, Gpa{r.available}, Gpa{r.used}}, driver_features_))) {
      return Fail(ErrorCode::kSnapshotInvalid, "restore virtio", "bad queue");
    }
    VMFORK_CHECK(queues_[i].Restore(in));
  }
  if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) device_.Activate(driver_features_);
  VMFORK_CHECK(device_.Restore(in));
  if (!in.AtEnd()) return Fail(ErrorCode::kSnapshotInvalid, "restore virtio", "wrong length");
  if (interrupt_status_ != 0) raise_ = true;
  return {};
}

}  // namespace vmfork
