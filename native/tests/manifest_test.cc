// Manifests and working sets: round trip, and every single-byte corruption and truncation refused;
// keys; and each way in which a manifest that is not damaged can still lie.
#include "snapshot/manifest.h"

#include "memory/gpa.h"
#include "snapshot/working_set.h"
#include "tests/test.h"

namespace vmfork {
namespace {

constexpr uint64_t kMemoryBytes = 64 << 20;

std::vector<std::byte> Key(char fill) { return std::vector<std::byte>(32, std::byte(fill)); }

Digest DigestOf(char fill) {
  Digest digest;
  digest.fill(std::byte(fill));
  return digest;
}

Manifest Sample() {
  Manifest manifest;
  manifest.state_digest = DigestOf('s');
  manifest.state_bytes = 20'000;
  manifest.memory_bytes = kMemoryBytes;
  manifest.bases = {{DigestOf('a'), "../first", "/snapshots/first"},
                    {DigestOf('b'), "../second", "/snapshots/second"}};
  manifest.extents = {{{0, 8 * kPageSize}, 2},
                      {{8 * kPageSize, kPageSize}, 0},
                      {{100 * kPageSize, 50 * kPageSize}, 1}};
  manifest.memory_digests = {{0, DigestOf('m')}};
  manifest.disks[1] = {.size_bytes = 3 << 20, .digests = {{0, DigestOf('d')}, {2, DigestOf('e')}}};
  return manifest;
}

Result<DecodedManifest> Coded(const Manifest& manifest) {
  return DecodeManifest(EncodeManifest(manifest, {}).bytes, {});
}

TEST(ManifestSurvivesEncoding) {
  const EncodedManifest encoded = EncodeManifest(Sample(), {});
  const auto decoded = DecodeManifest(encoded.bytes, {});
  EXPECT_TRUE(decoded.has_value());
  EXPECT_TRUE(decoded->id == encoded.id);
  const Manifest& manifest = decoded->manifest;
  EXPECT_EQ(manifest.state_bytes, 20'000u);
  EXPECT_EQ(manifest.bases[1].relative_path, "../second");
  EXPECT_EQ(manifest.extents[2].run.size, 50 * kPageSize);
  EXPECT_EQ(manifest.RunsOf(0).size(), 1u);
  EXPECT_EQ(manifest.disks[0].size_bytes, 0u);
  EXPECT_EQ(manifest.disks[1].digests[1].index, 2u);
}

TEST(EveryFlippedByteOfAManifestIsRefused) {
  for (const auto& key : {std::vector<std::byte>(), Key('k')}) {
    const auto bytes = EncodeManifest(Sample(), key).bytes;
    for (size_t i = 0; i < bytes.size(); ++i) {
      auto damaged = bytes;
      damaged[i] ^= std::byte{0x41};
      EXPECT_FALSE(DecodeManifest(damaged, {}).has_value());
      EXPECT_FALSE(DecodeManifest(damaged, key).has_value());
    }
  }
}

TEST(EveryTruncationOfAManifestIsRefused) {
  const auto bytes = EncodeManifest(Sample(), Key('k')).bytes;
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(DecodeManifest(std::span(bytes).first(size), {}).has_value());
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(DecodeManifest(longer, {}).has_value());
}

TEST(OnlyTheSameKeyOpensWhatWasSavedWithOne) {
  const auto plain = EncodeManifest(Sample(), {}), locked = EncodeManifest(Sample(), Key('k'));
  EXPECT_TRUE(DecodeManifest(locked.bytes, Key('k')).has_value());
  EXPECT_TRUE(DecodeManifest(locked.bytes, {}).has_value());
  EXPECT_FALSE(DecodeManifest(locked.bytes, Key('l')).has_value());
  EXPECT_FALSE(DecodeManifest(plain.bytes, Key('k')).has_value());
  EXPECT_TRUE(plain.id == locked.id);
}

TEST(AnotherFormatVersionOfAManifestIsIncompatible) {
  auto bytes = EncodeManifest(Sample(), {}).bytes;
  bytes[8] = std::byte{99};
  EXPECT_TRUE(DecodeManifest(bytes, {}).error().code == ErrorCode::kSnapshotIncompatible);
}

TEST(TheIdFollowsEveryPart) {
  const Digest id = EncodeManifest(Sample(), {}).id;
  Manifest other = Sample();
  other.state_digest = DigestOf('t');
  EXPECT_FALSE(EncodeManifest(other, {}).id == id);
  other = Sample();
  other.memory_digests[0].digest = DigestOf('n');
  EXPECT_FALSE(EncodeManifest(other, {}).id == id);
}

template <typename Change>
void ExpectLieRefused(Change change) {
  Manifest manifest = Sample();
  change(manifest);
  EXPECT_FALSE(Coded(manifest).has_value());
}

TEST(ExtentsThatCannotBeAreRefused) {
  ExpectLieRefused([](Manifest& m) { m.extents[0].run.size = 0; });
  ExpectLieRefused([](Manifest& m) { m.extents[0].run.size = 9 * kPageSize; });
  ExpectLieRefused([](Manifest& m) { m.extents[0].run.start = 1; });
  ExpectLieRefused([](Manifest& m) { m.extents[0].layer = 3; });
  ExpectLieRefused([](Manifest& m) { m.extents[2].run.size = kMemoryBytes; });
  ExpectLieRefused([](Manifest& m) { m.extents[2].run = {UINT64_MAX - 4095, 4096}; });
  ExpectLieRefused([](Manifest& m) { std::swap(m.extents[0], m.extents[1]); });
  ExpectLieRefused([](Manifest& m) {
    m.extents.clear();
    for (uint64_t i = 0; i <= kMaxSavedExtents; ++i)
      m.extents.push_back({{i * kPageSize, kPageSize}, 0});
  });
}

TEST(BasesDigestsAndSizesThatCannotBeAreRefused) {
  ExpectLieRefused([](Manifest& m) { m.bases.resize(kMaxLayers, m.bases[0]); });
  ExpectLieRefused([](Manifest& m) { m.bases[0].relative_path.clear(); });
  ExpectLieRefused([](Manifest& m) { m.bases[0].absolute_path = std::string("/a\0b", 4); });
  ExpectLieRefused([](Manifest& m) { m.bases[0].absolute_path.assign(5000, 'a'); });
  ExpectLieRefused([](Manifest& m) { m.memory_digests.push_back({0, DigestOf('x')}); });
  ExpectLieRefused([](Manifest& m) { m.memory_digests.push_back({64, DigestOf('x')}); });
  ExpectLieRefused([](Manifest& m) { m.disks[0].digests.push_back({0, DigestOf('x')}); });
  ExpectLieRefused([](Manifest& m) { m.disks[0].size_bytes = uint64_t{1} << 60; });
  ExpectLieRefused([](Manifest& m) { m.memory_bytes = 0; });
  ExpectLieRefused([](Manifest& m) { m.memory_bytes += 1; });
  ExpectLieRefused([](Manifest& m) { m.memory_bytes = uint64_t{1} << 50; });
  ExpectLieRefused([](Manifest& m) { m.state_bytes = uint64_t{1} << 40; });
}

TEST(WorkingSetSurvivesEncodingAndDamageIsRefused) {
  const std::vector<PageRun> runs = {{0, kPageSize}, {8 * kPageSize, 3 * kPageSize}};
  const auto bytes = EncodeWorkingSet(runs, DigestOf('a'));
  const auto decoded = DecodeWorkingSet(bytes, DigestOf('a'), kMemoryBytes);
  EXPECT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->size(), 2u);
  EXPECT_EQ((*decoded)[1].size, 3 * kPageSize);
  EXPECT_FALSE(DecodeWorkingSet(bytes, DigestOf('b'), kMemoryBytes).has_value());
  EXPECT_FALSE(DecodeWorkingSet(bytes, DigestOf('a'), 8 * kPageSize).has_value());
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto damaged = bytes;
    damaged[i] ^= std::byte{0x41};
    EXPECT_FALSE(DecodeWorkingSet(damaged, DigestOf('a'), kMemoryBytes).has_value());
    EXPECT_FALSE(
        DecodeWorkingSet(std::span(bytes).first(i), DigestOf('a'), kMemoryBytes).has_value());
  }
}

TEST(RunsThatCannotBeAreImplausible) {
  const auto plausible = [](std::vector<PageRun> runs) {
    return AreRunsPlausible(runs, 10 * kPageSize);
  };
  EXPECT_TRUE(plausible({{0, kPageSize}, {kPageSize, 9 * kPageSize}}));
  EXPECT_FALSE(plausible({{0, 0}}));
  EXPECT_FALSE(plausible({{0, 100}}));
  EXPECT_FALSE(plausible({{100, kPageSize}}));
  EXPECT_FALSE(plausible({{kPageSize, kPageSize}, {0, kPageSize}}));
  EXPECT_FALSE(plausible({{kPageSize, 10 * kPageSize}}));
  EXPECT_FALSE(plausible({{UINT64_MAX - 4095, 4096}}));
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
