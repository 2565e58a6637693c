// Guests of the tests of failing calls and allocations: such as make all of them that there are.
#pragma once

#include <linux/virtio_config.h>
#define VIRTIO_RING_NO_LEGACY 1  // the legacy part is not C++
#include <linux/virtio_ring.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/saved_fixture.h"
#include "tests/small_guest.h"
#include "vm/machine.h"

namespace vmfork {

inline constexpr ShellLimits kNoPool = {.ready = 0, .kept = 0};
inline constexpr ShellLimits kOneShell = {.ready = 0, .kept = 1};
inline const std::vector<std::byte> kControlBytes(64, std::byte{0x5e});

using VmPtr = std::shared_ptr<Vm>;

inline bool CountsOn(const Vm& vm) {
  const std::string then = vm.ConsoleTail();
  for (int i = 0; i < 4000; ++i) {
    if (vm.ConsoleTail() != then) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return false;
}

inline VmPtr BootCounter(const std::shared_ptr<Engine>& engine, uint32_t vcpus = 1) {
  auto vm = Boot(engine, kCount, std::make_shared<Observer>(), vcpus);
  EXPECT_TRUE(vm.has_value() && WaitForConsole(**vm, "01234567"));
  return vm ? *vm : nullptr;
}

inline constexpr uint64_t kRings = 0x170'0000, kBuffer = 0x170'1000;

// A page of the guest's memory with a receive queue in which one buffer waits (virtio 1.2, 2.7).
inline std::shared_ptr<const UniqueFd> ReceiveQueue() {
  struct {
    vring_desc descriptor{
        .addr = kBuffer, .len = kPageSize, .flags = VRING_DESC_F_WRITE, .next = 0};
    uint16_t available[3] = {0, 1, 0};  // flags, index, ring
  } queue;
  auto file = NewFile(kPageSize);
  EXPECT_EQ(::pwrite(file->Get(), &queue, sizeof queue, 0), ssize_t{sizeof queue});
  return file;
}

// Has the vsock device of a guest without a driver look like one with an open control connection.
inline void AddControlConnection(MachineState& state) {
  for (DeviceState& device : state.devices) {
    if (device.name != "vsock") continue;
    ByteWriter driver;  // mmio_transport.cc, Save(): registers, features, the first queue
    for (const uint32_t value : {0xfU, 0U, 0U, 0U, 0U, 0U}) driver.Put(value);
    driver.Put(uint64_t{1} << VIRTIO_F_VERSION_1);
    driver.Put<uint8_t>(1);
    driver.Put<uint32_t>(1);
    for (const uint64_t at : {kRings, kRings + 16, kRings + 64}) driver.Put(at);
    std::ranges::copy(driver.Bytes(), device.bytes.begin());
    // vsock_state.cc, Save(): at the end whether there is one, its port, what it owes, counters,
    // and a block of bytes. The guest has room for 64 KiB.
    device.bytes.back() = std::byte{1};
    ByteWriter control;
    for (const uint32_t value : {7U, 0U, 0U, 0U, 65536U, 0U, 0U, 0U, 0U}) control.Put(value);
    device.bytes.insert(device.bytes.end(), control.Bytes().begin(), control.Bytes().end());
  }
}

inline void AttachScratch(Vm& vm) {
  DiskOptions disk;
  disk.scratch_bytes = 1 << 20;
  EXPECT_TRUE(vm.AttachDisk(1, disk).has_value());
}

// As a rule sources have an engine of their own: the shells that they take and leave in the one of
// forks do not hold what those do that wait for forks.

inline SnapshotPtr CounterSnapshot(const std::shared_ptr<Engine>& engine = TestEngine(kNoPool)) {
  auto frozen = BootCounter(engine)->Freeze();
  EXPECT_TRUE(frozen.has_value());
  return frozen.value_or(nullptr);
}

// Of a guest with two vCPUs that counts, with a scratch disk and a control connection: its forks
// make all the calls that there are.
inline SnapshotPtr FullSnapshot() {
  auto vm = BootCounter(TestEngine(kNoPool), 2);
  AttachScratch(*vm);
  auto frozen = vm->Freeze();
  EXPECT_TRUE(frozen.has_value());
  MachineState state = (*frozen)->State();
  WritePage(state.config.media[1].medium->Fd(), 0, 'd');
  AddControlConnection(state);
  auto image = Image::Overlay(*(*frozen)->GetImage(), {{kRings, kPageSize, ReceiveQueue(), 0}});
  return std::make_shared<Snapshot>(std::move(*image), std::move(state), "{}");
}

inline ForkOptions WithControl() {
  ForkOptions options;
  options.control_bytes = kControlBytes;
  return options;
}

// A clone of `snapshot` runs and has its channel.
inline void ExpectForkable(const std::shared_ptr<Engine>& engine, const SnapshotPtr& snapshot) {
  auto observer = std::make_shared<Observer>();
  auto clone = Vm::Fork(engine, snapshot, WithControl(), observer);
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  if (!clone) return;
  const auto control = (*clone)->TakeControl();
  char byte = 0;
  EXPECT_TRUE(control.has_value() && ::recv(control->Get(), &byte, 1, MSG_DONTWAIT) < 0 &&
              errno == EAGAIN);
  EXPECT_FALSE(observer->ended.load());
}

inline const SharedShape& ShapeOf(const Snapshot& snapshot) { return snapshot.Shape(); }

// The source stands still: what its clone goes on with is what the source would have.
inline void ExpectFreezable(const std::shared_ptr<Engine>& engine, Vm& paused) {
  auto snapshot = paused.Freeze();
  EXPECT_TRUE(snapshot.has_value());
  if (!snapshot) return;
  auto clone = Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  const char next = static_cast<char>('0' + (paused.ConsoleTail().back() - '0' + 1) % 8);
  EXPECT_EQ((*clone)->ConsoleTail().front(), next);
}

// A counter that has been frozen often enough for its image to stay as large as it is.
inline VmPtr FrozenCounter(const std::shared_ptr<Engine>& engine) {
  auto vm = BootCounter(engine);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(vm->Freeze().has_value() && CountsOn(*vm));
  return vm;
}

}  // namespace vmfork
