// The kernel loaders: no file may make them read or write outside of their buffers.
#include <tuple>

#include "boot/kernel_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vmfork;
  static std::vector<std::byte> ram(24 << 20);
  const GuestMemory memory({{Gpa{0}, ram.size(), ram.data()}});
  std::ignore = LoadKernel(memory, std::as_bytes(std::span(data, size)));
  return 0;
}
