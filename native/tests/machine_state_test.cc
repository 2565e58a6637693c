// The state blob: round trip, and every single-byte corruption and truncation refused.
#include "snapshot/machine_state.h"

#include <cstring>

#include "tests/test.h"

namespace vmfork {
namespace {

MachineState Sample() {
  MachineState state;
  state.config = {.memory_bytes = 64 << 20, .vcpus = 2, .cid = 7, .disks = {}, .media = {}};
  state.host_kind = HostKind::kPvm;
  state.cpu_vendor = "AuthenticAMD";
  state.tsc_khz = 2'600'000;
  state.cpuid.resize(3);
  state.cpuid[1].function = 7;
  state.vcpus.resize(2);
  for (VcpuState& vcpu : state.vcpus) {
    vcpu.xsave.resize(kXsaveBytes);
    vcpu.msrs.push_back({.index = 0x10, .reserved = 0, .data = 99});
  }
  state.vcpus[1].regs.rip = 0x1234;
  state.clock.clock = 5;
  state.devices.push_back({"serial", std::vector<std::byte>(9)});
  return state;
}

TEST(StateSurvivesEncoding) {
  auto decoded = DecodeMachineState(EncodeMachineState(Sample(), "{\"a\":1}"));
  EXPECT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->metadata, "{\"a\":1}");
  EXPECT_EQ(decoded->state.vcpus[1].regs.rip, 0x1234u);
  EXPECT_EQ(decoded->state.config.vcpus, 2u);
  EXPECT_EQ(decoded->state.cpuid[1].function, 7u);
  EXPECT_EQ(decoded->state.devices[0].name, "serial");
}

TEST(EveryFlippedByteIsRefused) {
  const std::vector<std::byte> blob = EncodeMachineState(Sample(), "m");
  for (size_t i = 0; i < blob.size(); ++i) {
    auto damaged = blob;
    damaged[i] ^= std::byte{0x41};
    EXPECT_FALSE(DecodeMachineState(damaged).has_value());
  }
}

TEST(EveryTruncationIsRefused) {
  const std::vector<std::byte> blob = EncodeMachineState(Sample(), "m");
  for (size_t size = 0; size < blob.size(); size += size < 64 ? 1 : 37) {
    EXPECT_FALSE(DecodeMachineState(std::span(blob).first(size)).has_value());
  }
}

TEST(AnotherFormatVersionIsIncompatibleNotDamaged) {
  std::vector<std::byte> blob = EncodeMachineState(Sample(), "m");
  blob[8] = std::byte{99};
  EXPECT_TRUE(DecodeMachineState(blob).error().code == ErrorCode::kSnapshotIncompatible);
}

TEST(MissingVcpuIsRefused) {
  MachineState state = Sample();
  state.vcpus.pop_back();
  EXPECT_FALSE(DecodeMachineState(EncodeMachineState(state, "m")).has_value());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
