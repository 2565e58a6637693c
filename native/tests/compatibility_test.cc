// Each thing that a host can lack, and that it is named.
#include "snapshot/compatibility.h"

#include "tests/sample_state.h"
#include "tests/test.h"

namespace vmfork {
namespace {

// A host on which the sample state was made.
struct Host {
  HostInfo info{.kind = HostKind::kPvm,
                .cpu_vendor = "AuthenticAMD",
                .api_version = 12,
                .max_vcpus = 8,
                .capabilities = {{"TSC_DEADLINE_TIMER", 1}},
                .missing = {}};
  std::vector<kvm_cpuid_entry2> cpuid;
  VcpuStateFormat format{.xsave_bytes = kXsaveBytes, .has_xcrs = true, .msr_indices = {0x10}};
  uint32_t tsc_khz = 2'600'000;
  bool has_tsc_control = false;

  // The reason of the refusal; empty: there is none.
  std::string Check(const MachineState& state) const {
    const auto checked = CheckCompatibility(state, {.info = info,
                                                    .supported_cpuid = cpuid,
                                                    .vcpu_format = format,
                                                    .tsc_khz = tsc_khz,
                                                    .has_tsc_control = has_tsc_control});
    if (checked) return {};
    EXPECT_TRUE(checked.error().code == ErrorCode::kSnapshotIncompatible);
    return checked.error().detail;
  }
};

bool Names(const std::string& reason, const char* part) {
  if (reason.find(part) != std::string::npos) return true;
  std::fprintf(stderr, "  reason: \"%s\"\n", reason.c_str());
  return false;
}

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t index) {
  kvm_cpuid_entry2 leaf{};
  leaf.function = function;
  leaf.index = index;
  return leaf;
}

TEST(TheHostItWasMadeOnFits) { EXPECT_EQ(Host{}.Check(SampleState()), ""); }

TEST(AnotherKindOfHostIsNamed) {
  Host host;
  host.info.kind = HostKind::kHardware;
  EXPECT_TRUE(Names(host.Check(SampleState()), "of kind PVM, this one is of kind hardware"));
}

TEST(AnotherVendorIsNamed) {
  Host host;
  host.info.cpu_vendor = "GenuineIntel";
  EXPECT_TRUE(Names(host.Check(SampleState()), "AuthenticAMD processor, this is a GenuineIntel"));
}

TEST(AnotherSizeOfFpuStateIsNamed) {
  Host host;
  host.format.xsave_bytes = kXsaveBytes + 64;
  EXPECT_TRUE(Names(host.Check(SampleState()), "FPU state"));
}

TEST(MissingXcrsAreNamed) {
  Host host;
  host.format.has_xcrs = false;
  MachineState state = SampleState();
  EXPECT_EQ(host.Check(state), "");
  state.vcpus[1].has_xcrs = true;
  EXPECT_TRUE(Names(host.Check(state), "KVM_CAP_XCRS"));
}

TEST(AMissingTripleFaultEventIsNamed) {
  Host host;
  host.format.has_triple_fault = true;
  MachineState state = SampleState();
  state.vcpus[1].events.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
  EXPECT_EQ(host.Check(state), "");
  host.format.has_triple_fault = false;
  EXPECT_TRUE(Names(host.Check(state), "KVM_CAP_X86_TRIPLE_FAULT_EVENT"));
}

TEST(AnUnknownMsrIsNamed) {
  MachineState state = SampleState();
  state.vcpus[0].msrs.push_back({.index = 0x4b564d01, .reserved = 0, .data = 0});
  EXPECT_TRUE(Names(Host{}.Check(state), "MSR 0x4b564d01"));
}

TEST(AnotherTscRateIsNamedUnlessItCanBeSet) {
  Host host;
  host.tsc_khz = 2'600'600;  // 231 ppm
  EXPECT_EQ(host.Check(SampleState()), "");
  host.tsc_khz = 2'700'000;
  EXPECT_TRUE(Names(host.Check(SampleState()), "TSC ran at 2600000 kHz"));
  host.has_tsc_control = true;
  EXPECT_EQ(host.Check(SampleState()), "");
}

TEST(MissingFeaturesAreNamedByTheirBits) {
  MachineState state = SampleState();
  state.cpuid.push_back(Leaf(0x8000'0001, 0));
  state.cpuid.back().edx = 1U << 27;
  Host host;
  EXPECT_TRUE(Names(host.Check(state), "CPUID leaf 0x80000001 EDX bits 0x8000000"));
  host.cpuid = state.cpuid;
  EXPECT_EQ(host.Check(state), "");
}

TEST(BitsThatAreNotTheProcessorsDoNotCount) {
  MachineState state = SampleState();
  state.cpuid.push_back(Leaf(1, 0));
  state.cpuid.back().ecx = 1U << 31 | 1U << 27 | 1U << 21;
  state.cpuid.back().edx = 1U << 28;
  EXPECT_EQ(Host{}.Check(state), "");
}

TEST(AMissingTscDeadlineTimerIsNamed) {
  MachineState state = SampleState();
  state.cpuid.push_back(Leaf(1, 0));
  state.cpuid.back().ecx = 1U << 24;
  Host host;
  EXPECT_EQ(host.Check(state), "");
  host.info.capabilities = {{"TSC_DEADLINE_TIMER", 0}};
  EXPECT_TRUE(Names(host.Check(state), "KVM_CAP_TSC_DEADLINE_TIMER"));
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
