// What XSAVE and XRSTOR do with bytes (Intel SDM 1, sections 13.4, 13.7
// and 13.8): the standard format, which is also that of KVM_GET_XSAVE and
// KVM_SET_XSAVE. No system calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace vmfork {

inline constexpr size_t kXsaveHeaderEnd = 576;  // the legacy region and the header

// How many bytes of memory the instruction touches for these state components.
size_t XsaveExtent(uint64_t components);

// XSAVE: puts `components` of the processor's `state` into `area`, which holds
// what memory held. Both have at least XsaveExtent(components) bytes.
void StoreXsave(std::span<const std::byte> state, uint64_t components, std::span<std::byte> area);

// XRSTOR: puts `components` from `area`, in memory, into `state`. `enabled` is
// XCR0. False, with `state` unchanged: the instruction would raise #GP.
bool LoadXsave(std::span<const std::byte> area, uint64_t components, uint64_t enabled,
               std::span<std::byte> state);

}  // namespace vmfork
