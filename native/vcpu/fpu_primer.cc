// Three instructions' worth of real mode.
#include "vcpu/fpu_primer.h"

#include <array>
#include <cstring>
#include <string>

namespace vmfork {

namespace {
// fxrstor 0x200; out %al, $0x80
constexpr std::array<uint8_t, 7> kCode = {0x0f, 0xae, 0x0e, 0x00, 0x02, 0xe6, 0x80};
constexpr size_t kImageOffset = 0x200;
constexpr uint16_t kDonePort = 0x80;
constexpr uint64_t kCr4Osfxsr = 1 << 9;

// The legacy area of FXSAVE (Intel SDM 1, 10.5.1): control word, MXCSR and first XMM register
// differ from their initial values.
void WriteImage(std::span<std::byte> image) {
  constexpr uint16_t kControlWord = 0x027f;
  constexpr uint32_t kMxcsr = 0x1fa0;
  constexpr size_t kMxcsrOffset = 24, kXmmOffset = 160, kXmmBytes = 16;
  std::memcpy(image.data(), &kControlWord, sizeof kControlWord);
  std::memcpy(image.data() + kMxcsrOffset, &kMxcsr, sizeof kMxcsr);
  std::memset(image.data() + kXmmOffset, 0x5a, kXmmBytes);
}

Result<void> PointAt(const VcpuFd& vcpu, Gpa gpa) {
  // A processor that waits for its start-up message would wait in KVM_RUN as well.
  VMFORK_CHECK(vcpu.Set(kvm_mp_state{.mp_state = KVM_MP_STATE_RUNNABLE}));
  kvm_sregs sregs{};
  VMFORK_CHECK(vcpu.Get(sregs));
  for (kvm_segment* segment : {&sregs.cs, &sregs.ds}) {
    segment->base = gpa.value;
    segment->selector = static_cast<uint16_t>(gpa.value >> 4);
  }
  sregs.cr4 |= kCr4Osfxsr;
  VMFORK_CHECK(vcpu.Set(sregs));
  kvm_regs regs{};
  regs.rflags = 2;  // the bit that is always one; interrupts off
  return vcpu.Set(regs);
}

// Enters until `done`; a signal only delays it.
int EnterUntilExit(const VcpuFd& vcpu) {
  int error_number = EINTR;
  for (int tries = 0; error_number == EINTR && tries < 100; ++tries) error_number = vcpu.Enter();
  return error_number;
}
}  // namespace

Result<void> PrimeFpu(const VcpuFd& vcpu, Gpa gpa, std::span<std::byte> page) {
  std::memset(page.data(), 0, page.size());
  std::memcpy(page.data(), kCode.data(), kCode.size());
  WriteImage(page.subspan(kImageOffset));
  VMFORK_CHECK(PointAt(vcpu, gpa));
  const int error_number = EnterUntilExit(vcpu);
  if (error_number != 0) return FailErrno(error_number, "KVM_RUN", "to prepare the FPU");
  kvm_run& run = vcpu.Run();
  if (run.exit_reason != KVM_EXIT_IO || run.io.port != kDonePort) {
    return Fail(ErrorCode::kInternal, "prepare FPU",
                "unexpected exit " + std::to_string(run.exit_reason));
  }
  // The port access is complete once KVM_RUN has been entered again.
  run.immediate_exit = 1;
  vcpu.Enter();
  run.immediate_exit = 0;
  return {};
}

}  // namespace vmfork
