// Saved device state from a hostile snapshot: it is refused, or the device works on with it without
// harm. The first byte chooses the device.
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

template <typename Device, typename Use>
void RestoreInto(Device& device, ByteReader& in, Use use) {
  Ram ram;
  VirtioTransport transport(device, ram.memory, Interrupt(), Loop());
  ByteReader state(in.GetBytes(in.Remaining()));
  if (!transport.Restore(state)) return;
  use();
  transport.Resume();
  transport.Notify();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteReader in(std::as_bytes(std::span(data, size)));
  const auto choice = in.Get<uint8_t>() % 4;
  if (choice == 0) {
    RngDevice device;
    RestoreInto(device, in, [] {});
  } else if (choice == 1) {
    BlockDevice device(DiskThreads(), BlockDevice::Access::kReadWrite, ScratchDisk(4096));
    RestoreInto(device, in, [] {});
  } else if (choice == 3) {
    BalloonDevice device;
    RestoreInto(device, in, [] {});
  } else {
    VsockDevice device(Loop(), 3, 1024);
    RestoreInto(device, in, [&] {
      auto user = device.AttachControl({}, std::as_bytes(std::span("first")));
      device.SetCid(4);
      if (user) std::ignore = ::write(user->Get(), "resume", 6);
    });
  }
  return 0;
}
