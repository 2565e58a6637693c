// fwait and int3, the two that a Linux kernel runs into.
#include "vcpu/instruction_fixup.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <string>

namespace vmfork {

namespace {

constexpr uint8_t kOpcodeFwait = 0x9b, kOpcodeInt3 = 0xcc;
constexpr uint8_t kVectorBreakpoint = 3;
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

}  // namespace

Result<void> FinishInstruction(const VcpuFd& vcpu, const GuestMemory& memory) {
  kvm_regs regs{};
  VMFORK_CHECK(vcpu.Get(regs));
  const std::string bytes = InstructionBytes(vcpu, memory, regs.rip);
  const uint8_t opcode = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]);
  const bool known = opcode == kOpcodeFwait || opcode == kOpcodeInt3;
  if (vcpu.Run().internal.suberror != KVM_INTERNAL_ERROR_EMULATION || !known) {
    return Fail(ErrorCode::kEmulation, "KVM_RUN", Describe(vcpu.Run(), bytes, regs.rip));
  }
  // KVM has queued #UD beside the exit: it is taken back, or replaced by the exception that the
  // instruction raises.
  kvm_vcpu_events events{};
  VMFORK_CHECK(vcpu.Get(events));
  events.exception = {};
  if (opcode == kOpcodeInt3) {
    events.exception.injected = 1;
    events.exception.nr = kVectorBreakpoint;
  }
  ++regs.rip;
  VMFORK_CHECK(vcpu.Set(regs));
  return vcpu.Set(events);
}

}  // namespace vmfork
