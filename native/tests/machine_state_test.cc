// The state blob: round trip, and every single-byte corruption and truncation refused.
#include "snapshot/machine_state.h"

#include "tests/sample_state.h"
#include "tests/test.h"

namespace vmfork {
namespace {

TEST(StateSurvivesEncoding) {
  auto decoded = DecodeMachineState(EncodeMachineState(SampleState(), "{\"a\":1}"));
  EXPECT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->metadata, "{\"a\":1}");
  EXPECT_EQ(decoded->state.vcpus[1].regs.rip, 0x1234u);
  EXPECT_EQ(decoded->state.config.vcpus, 2u);
  EXPECT_EQ(decoded->state.cpuid[1].function, 7u);
  EXPECT_EQ(decoded->state.devices[0].name, "serial");
}

TEST(EveryFlippedByteIsRefused) {
  const std::vector<std::byte> blob = EncodeMachineState(SampleState(), "m");
  for (size_t i = 0; i < blob.size(); ++i) {
    auto damaged = blob;
    damaged[i] ^= std::byte{0x41};
    EXPECT_FALSE(DecodeMachineState(damaged).has_value());
  }
}

TEST(EveryTruncationIsRefused) {
  const std::vector<std::byte> blob = EncodeMachineState(SampleState(), "m");
  for (size_t size = 0; size < blob.size(); ++size) {
    EXPECT_FALSE(DecodeMachineState(std::span(blob).first(size)).has_value());
  }
}

TEST(AnotherFormatVersionIsIncompatibleNotDamaged) {
  std::vector<std::byte> blob = EncodeMachineState(SampleState(), "m");
  blob[8] = std::byte{99};
  EXPECT_TRUE(DecodeMachineState(blob).error().code == ErrorCode::kSnapshotIncompatible);
}

TEST(MissingVcpuIsRefused) {
  MachineState state = SampleState();
  state.vcpus.pop_back();
  EXPECT_FALSE(DecodeMachineState(EncodeMachineState(state, "m")).has_value());
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
