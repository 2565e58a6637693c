// Reading, writing and encoding processor state.
#include "vcpu/vcpu_state.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <string>

namespace vmfork {

namespace {

constexpr uint32_t kMsrTsc = 0x10, kMsrTscAdjust = 0x3b, kMsrTscDeadline = 0x6e0;
constexpr uint32_t kMsrKvmWallClock = 0x11, kMsrKvmSystemTime = 0x12;
constexpr uint32_t kMsrKvmWallClockNew = 0x4b564d00, kMsrKvmSystemTimeNew = 0x4b564d01;
constexpr uint32_t kFirstKvmMsr = 0x4b56'4d00, kLastKvmMsr = 0x4b56'4dff;  // asm/kvm_para.h
constexpr uint32_t kHyperVFirst = 0x4000'0000, kHyperVLast = 0x4000'01ff;
constexpr size_t kMaxMsrs = 1024, kMaxXsaveBytes = 1 << 16;

// Writing one of these, even with its own value, moves time or writes guest memory.
constexpr std::array kTimeMsrs = {
    kMsrTsc,           kMsrTscAdjust,       kMsrTscDeadline,     kMsrKvmWallClock,
    kMsrKvmSystemTime, kMsrKvmWallClockNew, kMsrKvmSystemTimeNew};

// KVM_GET_MSR_INDEX_LIST is silent about these, yet KVM keeps what a guest writes there. Which of
// them a vCPU has depends on the host and on its CPUID.
struct MsrRange {
  uint32_t first, count;
};
constexpr MsrRange kUnlistedMsrs[] = {
    {0x8c, 4},                        // key of SGX launch enclaves
    {0x200, 16},                      // MTRRs of eight variable ranges
    {0x250, 1},                       // of fixed ranges: 64 KiB each,
    {0x258, 2},                       // 16 KiB,
    {0x268, 8},                       // 4 KiB
    {0x2ff, 1},                       // and of the rest
    {0x400, 4 * kMachineCheckBanks},  // machine checks: control, status, address, more
    {0xc001'0140, 2},                 // AMD: workarounds visible to the OS
    {0xc001'1029, 1},                 // AMD: how instructions are decoded
};

bool IsTimeMsr(uint32_t index) { return std::ranges::find(kTimeMsrs, index) != kTimeMsrs.end(); }

// The list names MSRs of features that this vCPU was not given: those cannot be read, and are left
// out.
Result<std::vector<kvm_msr_entry>> ReadMsrs(const VcpuFd& vcpu,
                                            const std::vector<uint32_t>& indices) {
  std::vector<kvm_msr_entry> wanted;
  for (uint32_t index : indices) {
    // Interfaces of another hypervisor, which FitCpuid() does not offer.
    if (index >= kHyperVFirst && index <= kHyperVLast) continue;
    wanted.push_back({.index = index, .reserved = 0, .data = 0});
  }
  std::vector<kvm_msr_entry> read;
  std::span<kvm_msr_entry> rest(wanted);
  while (!rest.empty()) {
    VMFORK_TRY(count, vcpu.GetMsrs(rest));
    read.insert(read.end(), rest.begin(), rest.begin() + static_cast<ptrdiff_t>(count));
    rest = rest.subspan(std::min(rest.size(), count + 1));
  }
  return read;
}

// Some can be read but not written: constants of the processor. They are found out here, once, and
// not at every fork.
Result<void> DropReadOnlyMsrs(const VcpuFd& vcpu, std::vector<kvm_msr_entry>& msrs) {
  std::vector<kvm_msr_entry> writable;
  for (const kvm_msr_entry& entry : msrs) {
    if (!IsTimeMsr(entry.index)) {
      VMFORK_TRY(count, vcpu.SetMsrs(std::span(&entry, 1)));
      if (count == 0) continue;
    }
    writable.push_back(entry);
  }
  // The TSC before everything that is counted in it; the deadline is KVM's to arm once the APIC is
  // in place.
  const auto tsc = std::ranges::find(writable, kMsrTsc, &kvm_msr_entry::index);
  if (tsc != writable.end()) std::rotate(writable.begin(), tsc, tsc + 1);
  msrs = std::move(writable);
  return {};
}

Result<void> WriteMsrs(const VcpuFd& vcpu, std::span<const kvm_msr_entry> msrs) {
  VMFORK_TRY(count, vcpu.SetMsrs(msrs));
  if (count == msrs.size()) return {};
  char detail[32];
  std::snprintf(detail, sizeof detail, "MSR 0x%x", msrs[count].index);
  return Fail(ErrorCode::kSnapshotIncompatible, "KVM_SET_MSRS", detail);
}

// Those of `wanted` that are not so in `now`; the TSC always, which does not stand still. Not the
// place of the wall clock: writing it has KVM put the host's time there, in a page that the clone
// would have to copy, and the guest looks at it only when it has just written the register itself.
std::vector<kvm_msr_entry> ChangedMsrs(const std::vector<kvm_msr_entry>& wanted,
                                       const std::vector<kvm_msr_entry>& now) {
  std::vector<kvm_msr_entry> changed;
  size_t at = 0;  // both lists are in the order of one host's list as a rule
  for (const kvm_msr_entry& entry : wanted) {
    size_t found = at;
    while (found < now.size() && now[found].index != entry.index) ++found;
    if (found < now.size()) at = found + 1;
    if (entry.index == kMsrKvmWallClock || entry.index == kMsrKvmWallClockNew) continue;
    const bool equal = found < now.size() && now[found].data == entry.data;
    if (!equal || entry.index == kMsrTsc) changed.push_back(entry);
  }
  return changed;
}

// Both were filled by the kernel over zeros, so that padding is equal.
template <typename Struct>
bool Differs(const Struct& one, const Struct& other) {
  return std::memcmp(&one, &other, sizeof one) != 0;
}

// Whether the APIC's timer is armed by writing IA32_TSC_DEADLINE, and by nothing else: bits 17 and
// 18 of its vector table entry (SDM, volume 3, 11.5.4).
bool TimerWaitsForDeadline(const kvm_lapic_state& lapic) {
  constexpr size_t kLvtTimer = 0x320;
  constexpr uint32_t kTimerMode = 3U << 17, kTscDeadlineMode = 2U << 17;
  uint32_t entry = 0;
  std::memcpy(&entry, lapic.regs + kLvtTimer, sizeof entry);
  return (entry & kTimerMode) == kTscDeadlineMode;
}

}  // namespace

std::vector<uint32_t> GuestMsrs(std::vector<uint32_t> listed) {
  for (const MsrRange& range : kUnlistedMsrs) {
    for (uint32_t index = range.first; index < range.first + range.count; ++index)
      if (std::ranges::find(listed, index) == listed.end()) listed.push_back(index);
  }
  return listed;
}

Result<VcpuState> ReadVcpuState(const VcpuFd& vcpu, const VcpuStateFormat& format) {
  VcpuState state;
  // First: reading it makes KVM take in INIT and SIPI that are still pending.
  VMFORK_CHECK(vcpu.Get(state.mp_state));
  VMFORK_CHECK(vcpu.Get(state.regs));
  VMFORK_CHECK(vcpu.Get(state.sregs));
  state.has_xcrs = format.has_xcrs;
  if (format.has_xcrs) VMFORK_CHECK(vcpu.Get(state.xcrs));
  state.xsave.resize(format.xsave_bytes);
  VMFORK_CHECK(vcpu.GetXsave(state.xsave));
  VMFORK_CHECK(vcpu.Get(state.debugregs));
  VMFORK_CHECK(vcpu.Get(state.lapic));
  VMFORK_TRY(msrs, ReadMsrs(vcpu, format.msr_indices));
  state.msrs = std::move(msrs);
  VMFORK_CHECK(vcpu.Get(state.events));
  return state;
}

Result<VcpuState> ReadFreshVcpuState(const VcpuFd& vcpu, const VcpuStateFormat& format) {
  VMFORK_TRY(state, ReadVcpuState(vcpu, format));
  VMFORK_CHECK(DropReadOnlyMsrs(vcpu, state.msrs));
  return state;
}

VcpuChange FindVcpuChange(const VcpuState& now, const VcpuState& wanted) {
  return {.sregs = Differs(wanted.sregs, now.sregs),
          .xcrs = wanted.has_xcrs && Differs(wanted.xcrs, now.xcrs),
          .xsave = wanted.xsave != now.xsave,
          .regs = Differs(wanted.regs, now.regs),
          .debugregs = Differs(wanted.debugregs, now.debugregs),
          // When it is not the TSC deadline that arms its timer, to write it does.
          .lapic = !TimerWaitsForDeadline(wanted.lapic) || Differs(wanted.lapic, now.lapic),
          .mp_state = Differs(wanted.mp_state, now.mp_state),
          .events = Differs(wanted.events, now.events),
          .msrs = ChangedMsrs(wanted.msrs, now.msrs)};
}

Result<void> WriteVcpuState(const VcpuFd& vcpu, const VcpuState& wanted, const VcpuChange& change) {
  if (change.sregs) VMFORK_CHECK(vcpu.Set(wanted.sregs));
  if (change.xcrs) VMFORK_CHECK(vcpu.Set(wanted.xcrs));
  if (change.xsave) VMFORK_CHECK(vcpu.SetXsave(wanted.xsave));
  if (change.regs) VMFORK_CHECK(vcpu.Set(wanted.regs));
  if (change.debugregs) VMFORK_CHECK(vcpu.Set(wanted.debugregs));
  // Before the MSRs: a TSC deadline is only taken when the APIC's timer is in that mode.
  if (change.lapic) VMFORK_CHECK(vcpu.Set(wanted.lapic));
  VMFORK_CHECK(WriteMsrs(vcpu, change.msrs));
  if (change.mp_state) VMFORK_CHECK(vcpu.Set(wanted.mp_state));
  if (change.events) VMFORK_CHECK(vcpu.Set(wanted.events));
  return {};
}

VcpuState VcpuStateAtRest(const VcpuState& state, const VcpuState& fresh) {
  VcpuState rest = state;
  // A timer that counts must not run ahead of its guest.
  if (!TimerWaitsForDeadline(state.lapic)) rest.lapic = fresh.lapic;
  rest.msrs = fresh.msrs;
  for (kvm_msr_entry& entry : rest.msrs) {
    const bool of_kvm = entry.index >= kFirstKvmMsr && entry.index <= kLastKvmMsr;
    if (IsTimeMsr(entry.index) || of_kvm) continue;
    const auto wanted = std::ranges::find(state.msrs, entry.index, &kvm_msr_entry::index);
    if (wanted != state.msrs.end()) entry.data = wanted->data;
  }
  return rest;
}

Result<void> ResetVcpuState(const VcpuFd& vcpu, const VcpuState& state) {
  constexpr uint64_t kFarTsc = 1ULL << 62;
  std::vector<kvm_msr_entry> msrs = state.msrs;
  for (kvm_msr_entry& entry : msrs)
    if (entry.index == kMsrTsc) entry.data = kFarTsc;
  // INIT, SIPI, NMI and SMI that are on their way KVM takes in when it is asked for these. Left
  // there, they would reach the next guest.
  kvm_mp_state mp_state{};
  kvm_vcpu_events events{};
  VMFORK_CHECK(vcpu.Get(mp_state));
  VMFORK_CHECK(vcpu.Get(events));
  VMFORK_CHECK(vcpu.Set(state.sregs));
  if (state.has_xcrs) VMFORK_CHECK(vcpu.Set(state.xcrs));
  VMFORK_CHECK(vcpu.SetXsave(state.xsave));
  VMFORK_CHECK(vcpu.Set(state.regs));
  VMFORK_CHECK(vcpu.Set(state.debugregs));
  VMFORK_CHECK(vcpu.Set(state.lapic));
  VMFORK_CHECK(WriteMsrs(vcpu, msrs));
  VMFORK_CHECK(vcpu.Set(state.mp_state));
  VMFORK_CHECK(vcpu.Set(state.events));
  std::memset(&vcpu.Run(), 0, sizeof(kvm_run));  // KVM's half of the last exit
  return {};
}

Result<void> StartTsc(const VcpuFd& vcpu) {
  // Not 0: KVM takes that for a processor that is to follow the others.
  const kvm_msr_entry start{.index = kMsrTsc, .reserved = 0, .data = 1};
  return WriteMsrs(vcpu, std::span(&start, 1));
}

void EncodeVcpuState(const VcpuState& state, ByteWriter& out) {
  out.PutStruct(state.mp_state);
  out.PutStruct(state.regs);
  out.PutStruct(state.sregs);
  out.Put<uint8_t>(state.has_xcrs ? 1 : 0);
  out.PutStruct(state.xcrs);
  out.PutBlock(state.xsave);
  out.PutStruct(state.debugregs);
  out.PutStruct(state.lapic);
  out.Put(static_cast<uint32_t>(state.msrs.size()));
  for (const kvm_msr_entry& entry : state.msrs) {
    out.Put<uint32_t>(entry.index);
    out.Put<uint64_t>(entry.data);
  }
  out.PutStruct(state.events);
}

Result<VcpuState> DecodeVcpuState(ByteReader& in) {
  VcpuState state;
  state.mp_state = in.GetStruct<kvm_mp_state>();
  state.regs = in.GetStruct<kvm_regs>();
  state.sregs = in.GetStruct<kvm_sregs>();
  state.has_xcrs = in.Get<uint8_t>() != 0;
  state.xcrs = in.GetStruct<kvm_xcrs>();
  const auto xsave = in.GetBlock();
  state.xsave.assign(xsave.begin(), xsave.end());
  state.debugregs = in.GetStruct<kvm_debugregs>();
  state.lapic = in.GetStruct<kvm_lapic_state>();
  const auto msr_count = in.Get<uint32_t>();
  // KVM reads xsave without being told its length: a short one would have it read beyond.
  const bool xsave_fits = state.xsave.size() >= kXsaveBytes && state.xsave.size() <= kMaxXsaveBytes;
  if (!in.Ok() || msr_count > kMaxMsrs || !xsave_fits || state.xcrs.nr_xcrs > KVM_MAX_XCRS) {
    return Fail(ErrorCode::kSnapshotInvalid, "decode vCPU", "implausible lengths");
  }
  for (uint32_t i = 0; i < msr_count; ++i) {
    const auto index = in.Get<uint32_t>();
    state.msrs.push_back({.index = index, .reserved = 0, .data = in.Get<uint64_t>()});
  }
  state.events = in.GetStruct<kvm_vcpu_events>();
  if (!in.Ok()) return Fail(ErrorCode::kSnapshotInvalid, "decode vCPU", "truncated");
  return state;
}

}  // namespace vmfork
