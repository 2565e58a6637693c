// fwait, int3, xsave64 and xrstor64: what a Linux kernel runs into.
#include "vcpu/instruction_fixup.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "vcpu/linear_memory.h"
#include "vcpu/xsave.h"

namespace vmfork {

namespace {

constexpr uint8_t kOpcodeFwait = 0x9b, kOpcodeInt3 = 0xcc;
// The two forms that Linux uses, with the address in RDI
// (arch/x86/kernel/fpu/xstate.h).
constexpr std::string_view kXsave64("\x48\x0f\xae\x27", 4), kXrstor64("\x48\x0f\xae\x2f", 4);
constexpr uint64_t kXsaveAlignment = 64;
constexpr size_t kMaxInstructionBytes = 15;

// The bytes at RIP, as many as one page holds.
std::string InstructionBytes(const VcpuFd& vcpu, const GuestMemory& memory, uint64_t rip) {
  auto gpa = vcpu.Translate(rip);
  if (!gpa) return {};
  std::string bytes(std::min<uint64_t>(kMaxInstructionBytes, kPageSize - *gpa % kPageSize), '\0');
  if (!memory.Read(Gpa{*gpa}, std::as_writable_bytes(std::span(bytes)))) return {};
  return bytes;
}

std::string Describe(const kvm_run& run, const std::string& bytes, uint64_t rip) {
  char text[96];
  std::snprintf(text, sizeof text, "suberror %u at RIP 0x%" PRIx64 ", bytes", run.internal.suberror,
                rip);
  std::string detail = text;
  for (char byte : bytes) {
    std::snprintf(text, sizeof text, " %02x", static_cast<unsigned char>(byte));
    detail += text;
  }
  return detail;
}

// An exception that the instruction raises instead of ending.
struct Exception {
  uint8_t vector = 0;
  bool has_error_code = false;
  uint32_t error_code = 0;
};

constexpr Exception kBreakpoint{.vector = 3, .has_error_code = false, .error_code = 0};
constexpr Exception kProtection{.vector = 13, .has_error_code = true, .error_code = 0};

// XSAVE and XRSTOR, once for one vCPU.
class XsaveInstruction {
 public:
  XsaveInstruction(const VcpuFd& vcpu, const GuestMemory& memory, const kvm_regs& regs)
      : vcpu_(vcpu), memory_(memory), regs_(regs) {}

  // Finishes it; what it raises is in `raised`.
  Result<void> Run(bool store, std::optional<Exception>& raised) {
    VMFORK_CHECK(vcpu_.Get(sregs_));
    kvm_xcrs xcrs{};
    VMFORK_CHECK(vcpu_.Get(xcrs));
    enabled_ = xcrs.xcrs[0].value;
    components_ = ((regs_.rdx << 32) | (regs_.rax & 0xffff'ffff)) & enabled_;
    const size_t extent = XsaveExtent(components_);
    if (extent > kXsaveBytes)
      return Fail(ErrorCode::kEmulation, "XSAVE", std::to_string(extent) + " bytes of state");
    raised = kProtection;
    if (regs_.rdi % kXsaveAlignment != 0) return {};
    const LinearMemory linear(memory_, sregs_);
    const std::span area(area_.data(), extent);
    if (const auto fault = linear.Read(regs_.rdi, area)) return Raise(*fault, raised);
    VMFORK_CHECK(vcpu_.GetXsave(state_));
    if (!store && !LoadXsave(area, components_, enabled_, state_)) return {};
    raised.reset();
    if (!store) return vcpu_.SetXsave(state_);
    StoreXsave(state_, components_, area);
    if (const auto fault = linear.Write(regs_.rdi, area)) return Raise(*fault, raised);
    return {};
  }

 private:
  Result<void> Raise(const PageFault& fault, std::optional<Exception>& raised) {
    raised = Exception{.vector = 14, .has_error_code = true, .error_code = fault.error_code};
    sregs_.cr2 = fault.address;
    return vcpu_.Set(sregs_);
  }

  const VcpuFd& vcpu_;
  const GuestMemory& memory_;
  const kvm_regs& regs_;
  kvm_sregs sregs_{};
  uint64_t enabled_ = 0;     // XCR0
  uint64_t components_ = 0;  // the requested-feature bitmap (SDM 1, section 13.3)
  std::array<std::byte, kXsaveBytes> area_{};
  std::array<std::byte, kXsaveBytes> state_{};
};

// Carries the instruction out. Returns its length, 0 when it is none of ours.
Result<size_t> CarryOut(const VcpuFd& vcpu, const GuestMemory& memory, const kvm_regs& regs,
                        std::string_view bytes, std::optional<Exception>& raised) {
  if (bytes.starts_with(kXsave64) || bytes.starts_with(kXrstor64)) {
    XsaveInstruction instruction(vcpu, memory, regs);
    VMFORK_CHECK(instruction.Run(bytes.starts_with(kXsave64), raised));
    return kXsave64.size();
  }
  const uint8_t opcode = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]);
  if (opcode == kOpcodeInt3) raised = kBreakpoint;
  return opcode == kOpcodeFwait || opcode == kOpcodeInt3 ? 1 : 0;
}

}  // namespace

Result<void> FinishInstruction(const VcpuFd& vcpu, const GuestMemory& memory) {
  kvm_regs regs{};
  VMFORK_CHECK(vcpu.Get(regs));
  const std::string bytes = InstructionBytes(vcpu, memory, regs.rip);
  std::optional<Exception> raised;
  size_t length = 0;
  if (vcpu.Run().internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
    VMFORK_TRY(carried_out, CarryOut(vcpu, memory, regs, bytes, raised));
    length = carried_out;
  }
  if (length == 0)
    return Fail(ErrorCode::kEmulation, "KVM_RUN", Describe(vcpu.Run(), bytes, regs.rip));
  // KVM has queued #UD beside the exit: it is taken back, or replaced by the
  // exception that the instruction raises.
  kvm_vcpu_events events{};
  VMFORK_CHECK(vcpu.Get(events));
  events.exception = {};
  if (raised) {
    events.exception.injected = 1;
    events.exception.nr = raised->vector;
    events.exception.has_error_code = raised->has_error_code ? 1 : 0;
    events.exception.error_code = raised->error_code;
  }
  // A fault leaves RIP at the instruction; a trap, such as int3's, comes behind
  // it.
  if (!raised || raised->vector == kBreakpoint.vector) regs.rip += length;
  VMFORK_CHECK(vcpu.Set(regs));
  return vcpu.Set(events);
}

}  // namespace vmfork
