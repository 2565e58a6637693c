// What the vCPU thread carries out for an interpreted kernel: page tables, and XSAVE areas, are
// whatever the guest wrote.
#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <vector>

#include "vcpu/linear_memory.h"
#include "vcpu/xsave.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vmfork;
  constexpr size_t kPages = 8, kStateBytes = 1 << 16;
  struct Head {
    uint64_t cr3, cr4, address, components, enabled;
  } head{};
  if (size < sizeof head) return 0;
  std::memcpy(&head, data, sizeof head);
  alignas(kPageSize) static std::array<std::byte, kPages * kPageSize> ram;
  ram.fill({});
  std::memcpy(ram.data(), data + sizeof head, std::min(size - sizeof head, ram.size()));
  const GuestMemory memory({RamRegion{Gpa{0}, ram.size(), ram.data()}});
  kvm_sregs sregs{};
  sregs.cr3 = head.cr3;
  sregs.cr4 = head.cr4;
  const LinearMemory linear(memory, sregs);
  static std::array<std::byte, kStateBytes> area, state;
  area.fill({});
  state.fill({});
  const std::span touched(area.data(), XsaveExtent(head.components));
  if (linear.Read(head.address, touched)) return 0;
  if (LoadXsave(area, head.components, head.enabled, state)) {
    StoreXsave(state, head.components, area);
  }
  std::ignore = linear.Write(head.address, touched);
  return 0;
}
