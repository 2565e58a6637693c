// Registers and the status machine (virtio 1.2, sections 2.1, 3.1 and 4.2.2).
#include "devices/virtio/mmio_transport.h"

#define VIRTIO_RING_NO_LEGACY 1  // the legacy part is not C++
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include <array>
#include <cstring>

namespace vmfork {

namespace {

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVersion = 2;          // modern
constexpr uint32_t kVendor = 0x4b464d56;  // "VMFK"
constexpr uint32_t kNoSharedMemory = 0xffff'ffff;
constexpr uint64_t kTransportFeatures = 1ULL << VIRTIO_F_VERSION_1 |
                                        1ULL << VIRTIO_RING_F_INDIRECT_DESC |
                                        1ULL << VIRTIO_RING_F_EVENT_IDX;
// The kernel's VIRTIO_CONFIG_S_* are ints; bit arithmetic wants them unsigned.
constexpr uint32_t kAcknowledge = VIRTIO_CONFIG_S_ACKNOWLEDGE;
constexpr uint32_t kDriver = VIRTIO_CONFIG_S_DRIVER;
constexpr uint32_t kFeaturesOk = VIRTIO_CONFIG_S_FEATURES_OK;
constexpr uint32_t kDriverOk = VIRTIO_CONFIG_S_DRIVER_OK;
constexpr uint32_t kNeedsReset = VIRTIO_CONFIG_S_NEEDS_RESET;
constexpr uint32_t kFailed = VIRTIO_CONFIG_S_FAILED;

void SetLow(uint64_t& value, uint32_t part) { value = (value & ~0xffff'ffffULL) | part; }
void SetHigh(uint64_t& value, uint32_t part) {
  value = (value & 0xffff'ffffULL) | uint64_t{part} << 32;
}

bool IsRegisterAccess(uint64_t offset, size_t size) {
  // Section 4.2.2.2: registers are accessed as aligned 32-bit words.
  return size == sizeof(uint32_t) && offset % sizeof(uint32_t) == 0;
}

}  // namespace

VirtioTransport::VirtioTransport(VirtioDevice& device, const GuestMemory& memory,
                                 std::function<void()> interrupt, EventLoop& loop)
    : device_(device), memory_(memory), interrupt_(std::move(interrupt)), loop_(loop) {
  const std::vector<uint16_t> sizes = device.QueueSizes();
  queues_.reserve(sizes.size());
  for (uint16_t size : sizes) queues_.emplace_back(size);
  registers_.resize(queues_.size());
  device_.Attach(this);
}

VirtioTransport::~VirtioTransport() {
  if (*alive_) Retire();
}

void VirtioTransport::Retire() {
  {
    DeviceLock lock(*this);
    paused_ = true;
    device_.Reset();
  }
  device_.Shutdown();
  loop_.Run([this] { *alive_ = false; });
}

uint64_t VirtioTransport::Offered() const { return device_.OfferedFeatures() | kTransportFeatures; }

bool VirtioTransport::Running() const {
  return !paused_ && (status_ & (kDriverOk | kNeedsReset | kFailed)) == kDriverOk;
}

void VirtioTransport::Leave() {
  CheckQueues();
  // While paused the line stays quiet: what is due is signalled after Resume(), when the interrupt
  // controller's state can no longer be replaced by a restore.
  const bool signal = interrupt_due_ && !paused_;
  if (signal) interrupt_due_ = false;
  mutex_.unlock();
  if (signal) interrupt_();
}

void VirtioTransport::CheckQueues() {
  if ((status_ & kDriverOk) == 0) return;
  for (Virtqueue& queue : queues_) {
    if (queue.TakeInterrupt()) {
      interrupt_status_ |= VIRTIO_MMIO_INT_VRING;
      interrupt_due_ = true;
    }
    if (queue.BrokenReason() != nullptr && (status_ & kNeedsReset) == 0) {
      // Section 2.1.2: the device says so and does nothing more until it is reset.
      ++violations_;
      status_ |= kNeedsReset;
      ConfigChanged();
      device_.Reset();
    }
  }
}

void VirtioTransport::ConfigChanged() {
  ++config_generation_;
  if ((status_ & kDriverOk) == 0) return;
  interrupt_status_ |= VIRTIO_MMIO_INT_CONFIG;
  interrupt_due_ = true;
}

void VirtioTransport::ScheduleWork() {
  if (work_scheduled_.exchange(true)) return;
  loop_.Post([this, alive = alive_] {
    if (!*alive) return;
    work_scheduled_ = false;
    Notify();
  });
}

void VirtioTransport::Notify() {
  DeviceLock lock(*this);
  if (Running()) device_.ProcessQueues();
}

void VirtioTransport::Pause() {
  {
    DeviceLock lock(*this);
    paused_ = true;
  }
  device_.Quiesce();
}

void VirtioTransport::Resume() {
  DeviceLock lock(*this);
  paused_ = false;
  if (Running()) device_.Resume();
}

void VirtioTransport::Read(uint64_t offset, std::span<std::byte> data) {
  DeviceLock lock(*this);
  if (offset >= VIRTIO_MMIO_CONFIG) return device_.ReadConfig(offset - VIRTIO_MMIO_CONFIG, data);
  if (!IsRegisterAccess(offset, data.size())) {
    ++violations_;
    return;
  }
  const uint32_t value = ReadRegister(offset);
  std::memcpy(data.data(), &value, sizeof value);
}

void VirtioTransport::Write(uint64_t offset, std::span<const std::byte> data) {
  DeviceLock lock(*this);
  if (offset >= VIRTIO_MMIO_CONFIG) return device_.WriteConfig(offset - VIRTIO_MMIO_CONFIG, data);
  if (!IsRegisterAccess(offset, data.size())) {
    ++violations_;
    return;
  }
  uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof value);
  WriteRegister(offset, value);
}

uint32_t VirtioTransport::ReadRegister(uint64_t offset) const {
  const Virtqueue* queue = queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return device_.DeviceId();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendor;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      if (device_features_select_ > 1) return 0;
      return static_cast<uint32_t>(Offered() >> (32 * device_features_select_));
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue != nullptr ? queue->MaxSize() : 0;
    case VIRTIO_MMIO_QUEUE_READY:
      return queue != nullptr && queue->Ready() ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
      return interrupt_status_;
    case VIRTIO_MMIO_STATUS:
      return status_;
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return config_generation_;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return kNoSharedMemory;
    default:
      return 0;
  }
}

void VirtioTransport::WriteRegister(uint64_t offset, uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return;
    case VIRTIO_MMIO_DRIVER_FEATURES:
      return WriteDriverFeatures(value);
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
      // As a rule the ioeventfd takes this write and it never gets here.
      if (Running() && value < queues_.size()) ScheduleWork();
      return;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      interrupt_status_ &= ~value;
      return;
    case VIRTIO_MMIO_STATUS:
      return WriteStatus(value);
    default:
      return WriteQueueRegister(offset, value);
  }
}

void VirtioTransport::WriteDriverFeatures(uint32_t value) {
  // Section 3.1.1: after DRIVER, and settled by FEATURES_OK.
  if ((status_ & (kDriver | kFeaturesOk)) != kDriver) {
    ++violations_;
    return;
  }
  if (driver_features_select_ == 0) SetLow(driver_features_, value);
  if (driver_features_select_ == 1) SetHigh(driver_features_, value);
  // Words beyond have no offered bit: a set one can only be refused.
  if (driver_features_select_ > 1 && value != 0) ++violations_;
}

void VirtioTransport::WriteQueueRegister(uint64_t offset, uint32_t value) {
  // Queues are set up between FEATURES_OK and DRIVER_OK (section 3.1.1). A change later would move
  // memory under checks already made (the class of CVE-2026-5747).
  const bool in_setup =
      (status_ & (kFeaturesOk | kDriverOk | kNeedsReset | kFailed)) == kFeaturesOk;
  if (queue_select_ >= queues_.size() || !in_setup) {
    // Linux clears QUEUE_READY once more after a reset: nothing to do, and no offence.
    if (offset != VIRTIO_MMIO_QUEUE_READY || value != 0 || status_ != 0) ++violations_;
    return;
  }
  if (offset == VIRTIO_MMIO_QUEUE_READY) return SetQueueReady(value);
  if (queues_[queue_select_].Ready()) {
    ++violations_;
    return;
  }
  QueueRegisters& registers = registers_[queue_select_];
  if (offset == VIRTIO_MMIO_QUEUE_NUM) registers.size = value;
  if (offset == VIRTIO_MMIO_QUEUE_DESC_LOW) SetLow(registers.descriptors, value);
  if (offset == VIRTIO_MMIO_QUEUE_DESC_HIGH) SetHigh(registers.descriptors, value);
  if (offset == VIRTIO_MMIO_QUEUE_AVAIL_LOW) SetLow(registers.available, value);
  if (offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH) SetHigh(registers.available, value);
  if (offset == VIRTIO_MMIO_QUEUE_USED_LOW) SetLow(registers.used, value);
  if (offset == VIRTIO_MMIO_QUEUE_USED_HIGH) SetHigh(registers.used, value);
}

void VirtioTransport::SetQueueReady(uint32_t value) {
  queues_[queue_select_].Disable();
  // A queue that does not fit memory stays not ready; the driver reads that back.
  if (value != 0 && !EnableQueue(queue_select_)) ++violations_;
}

bool VirtioTransport::EnableQueue(size_t index) {
  const QueueRegisters& registers = registers_[index];
  if (registers.size > queues_[index].MaxSize()) return false;
  const Virtqueue::Layout layout{.size = static_cast<uint16_t>(registers.size),
                                 .descriptors = Gpa{registers.descriptors},
                                 .available = Gpa{registers.available},
                                 .used = Gpa{registers.used}};
  return queues_[index].Enable(memory_, layout, driver_features_);
}

// Whether the driver may set this status bit now (section 3.1.1, steps 2 to 8).
bool VirtioTransport::MaySet(uint32_t bit) const {
  switch (bit) {
    case kAcknowledge:
    case kFailed:
      return true;
    case kDriver:
      return (status_ & kAcknowledge) != 0;
    case kFeaturesOk:
      return (status_ & kDriver) != 0 && (driver_features_ & ~Offered()) == 0 &&
             (driver_features_ & 1ULL << VIRTIO_F_VERSION_1) != 0;
    case kDriverOk:
      return (status_ & kFeaturesOk) != 0;
    default:
      return false;
  }
}

void VirtioTransport::WriteStatus(uint32_t value) {
  if (value == 0) return ResetAll();
  // NEEDS_RESET is ours. Bits can only be added; only a reset clears them.
  const uint32_t kept = status_ & ~kNeedsReset;
  if ((value & kept) != kept || (status_ & (kNeedsReset | kFailed)) != 0) {
    ++violations_;
    return;
  }
  const uint32_t added = value & ~status_;
  constexpr std::array kInOrder = {kAcknowledge, kDriver, kFeaturesOk, kDriverOk, kFailed};
  for (uint32_t bit : kInOrder) {
    if ((added & bit) == 0) continue;
    if (!MaySet(bit)) {
      ++violations_;
      return;
    }
    status_ |= bit;
  }
  if ((added & kDriverOk) == 0) return;
  device_.Activate(driver_features_);
  // Chains may have been made available, and their notification sent, before DRIVER_OK.
  if (Running()) ScheduleWork();
}

void VirtioTransport::ResetAll() {
  for (Virtqueue& queue : queues_) queue.Disable();
  registers_.assign(registers_.size(), {});
  status_ = 0;
  interrupt_status_ = 0;
  interrupt_due_ = false;
  device_features_select_ = driver_features_select_ = queue_select_ = 0;
  driver_features_ = 0;
  device_.Reset();
}

void VirtioTransport::Save(ByteWriter& out) {
  DeviceLock lock(*this);
  for (uint32_t value : {status_, interrupt_status_, device_features_select_,
                         driver_features_select_, queue_select_, config_generation_}) {
    out.Put(value);
  }
  out.Put(driver_features_);
  for (size_t i = 0; i < queues_.size(); ++i) {
    out.Put<uint8_t>(queues_[i].Ready() ? 1 : 0);
    out.Put(registers_[i].size);
    out.Put(registers_[i].descriptors);
    out.Put(registers_[i].available);
    out.Put(registers_[i].used);
    queues_[i].Save(out);
  }
  device_.Save(out);
}

Result<void> VirtioTransport::Restore(ByteReader& in) {
  DeviceLock lock(*this);
  paused_ = true;
  auto restored = RestoreLocked(in);
  if (!restored) ResetAll();
  return restored;
}

Result<void> VirtioTransport::RestoreLocked(ByteReader& in) {
  for (uint32_t* value : {&status_, &interrupt_status_, &device_features_select_,
                          &driver_features_select_, &queue_select_, &config_generation_}) {
    *value = in.Get<uint32_t>();
  }
  driver_features_ = in.Get<uint64_t>();
  if (!in.Ok() || !StatusIsPossible() ||
      (interrupt_status_ & ~uint32_t{VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG}) != 0) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore virtio device", "impossible registers");
  }
  for (size_t i = 0; i < queues_.size(); ++i) VMFORK_CHECK(RestoreQueue(i, in));
  if ((status_ & kDriverOk) != 0) device_.Activate(driver_features_);
  VMFORK_CHECK(device_.Restore(in));
  if (!in.AtEnd()) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore virtio device", "bytes missing or left over");
  }
  // A signal that was on its way at the save is given again; a spurious one is harmless.
  interrupt_due_ = interrupt_status_ != 0;
  return {};
}

// What MaySet() and WriteStatus() can have led to.
bool VirtioTransport::StatusIsPossible() const {
  constexpr uint32_t kAll =
      kAcknowledge | kDriver | kFeaturesOk | kDriverOk | kNeedsReset | kFailed;
  if ((status_ & ~kAll) != 0) return false;
  for (uint32_t bit : {kDriver, kFeaturesOk, kDriverOk}) {
    if ((status_ & bit) != 0 && !MaySet(bit)) return false;
  }
  return (status_ & kNeedsReset) == 0 || (status_ & kDriverOk) != 0;
}

Result<void> VirtioTransport::RestoreQueue(size_t index, ByteReader& in) {
  const bool ready = in.Get<uint8_t>() != 0;
  QueueRegisters& registers = registers_[index];
  registers.size = in.Get<uint32_t>();
  registers.descriptors = in.Get<uint64_t>();
  registers.available = in.Get<uint64_t>();
  registers.used = in.Get<uint64_t>();
  if (!ready) {
    in.GetBytes(Virtqueue::kSavedBytes);
    return {};
  }
  if (!in.Ok() || (status_ & kFeaturesOk) == 0 || !EnableQueue(index)) {
    return Fail(ErrorCode::kSnapshotInvalid, "restore virtqueue", "its rings do not fit memory");
  }
  return queues_[index].Restore(in);
}

}  // namespace vmfork
