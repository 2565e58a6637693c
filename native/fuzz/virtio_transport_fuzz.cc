// A hostile guest at the registers and rings of each device. The first byte chooses the device and
// whether the input starts from a running driver.
#include <sys/mman.h>
#include <unistd.h>

#include "devices/virtio/balloon.h"
#include "devices/virtio/block.h"
#include "devices/virtio/rng.h"
#include "devices/virtio/vsock.h"
#include "fuzz/virtio_fuzz_machine.h"

namespace {

using namespace vmfork;
using namespace vmfork::fuzzing;

constexpr uint64_t kRingFeatures = 1ULL << VIRTIO_F_VERSION_1 |
                                   1ULL << VIRTIO_RING_F_INDIRECT_DESC |
                                   1ULL << VIRTIO_RING_F_EVENT_IDX;

template <typename Device>
void Drive(Device& device, Device& fresh, bool start, ByteReader& in) {
  Ram ram;
  VirtioTransport transport(device, ram.memory, Interrupt(), Loop());
  if constexpr (std::is_same_v<Device, VsockDevice>) {
    std::ignore = device.Listen(1024, [](uint32_t, UniqueFd) {});
  }
  FuzzDriver driver(transport, ram);
  const uint64_t features = kRingFeatures | device.OfferedFeatures();
  if (start) driver.Start(features, static_cast<uint32_t>(device.QueueSizes().size()));
  driver.Run(in);
  RoundTrip(transport, fresh, ram);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader in(std::as_bytes(std::span(data, size)));
  const auto choice = in.Get<uint8_t>();
  const bool start = (choice & 4) != 0;
  switch (choice % 4) {
    case 0: {
      RngDevice device;
      RngDevice fresh;
      Drive(device, fresh, start, in);
      break;
    }
    case 1: {
      const auto access =
          (choice & 8) != 0 ? BlockDevice::Access::kReadWrite : BlockDevice::Access::kReadOnly;
      static const BlockDisk disk = ScratchDisk(8192);
      BlockDevice device(DiskThreads(), access, disk);
      BlockDevice fresh(DiskThreads(), access, disk);
      Drive(device, fresh, start, in);
      break;
    }
    case 2: {
      BalloonDevice device;
      BalloonDevice fresh;
      Drive(device, fresh, start, in);
      break;
    }
    default: {
      VsockDevice device(Loop(), 3, 1024);
      VsockDevice fresh(Loop(), 3, 1024);
      Drive(device, fresh, start, in);
      break;
    }
  }
  return 0;
}
