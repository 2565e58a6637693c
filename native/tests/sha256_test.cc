// SHA-256 and HMAC against the published vectors, and the two implementations against each other.
#include "base/sha256.h"

#include <string_view>
#include <vector>

#include "tests/test.h"

namespace vmfork {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// FIPS 180-4's examples: csrc.nist.gov, "Cryptographic Standards and Guidelines: Example Values".
TEST(Sha256OfThePublishedMessages) {
  EXPECT_EQ(DigestText(Sha256::Of({})),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(DigestText(Sha256::Of(Bytes("abc"))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(
      DigestText(Sha256::Of(Bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))),
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

// RFC 4231, test cases 2 and 6.
TEST(HmacOfThePublishedMessages) {
  EXPECT_EQ(DigestText(HmacSha256(Bytes("Jefe"), Bytes("what do ya want for nothing?"))),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  const std::vector<std::byte> long_key(131, std::byte{0xaa});
  EXPECT_EQ(DigestText(HmacSha256(long_key,
                                  Bytes("Test Using Larger Than Block-Size Key - Hash Key First"))),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(BothImplementationsAgreeOnEveryLengthAndSplit) {
  std::vector<std::byte> message(300);
  for (size_t i = 0; i < message.size(); ++i) message[i] = static_cast<std::byte>(i * 7 + 3);
  for (size_t size = 0; size <= message.size(); ++size) {
    const auto bytes = std::span<const std::byte>(message).first(size);
    Sha256 portable{Sha256::Portable{}}, split;
    portable.Update(bytes);
    split.Update(bytes.first(size / 3));
    split.Update(bytes.subspan(size / 3));
    EXPECT_TRUE(portable.Finish() == split.Finish());
  }
}

TEST(DigestsAreEqualOnlyWhenEveryByteIs) {
  const Digest digest = Sha256::Of(Bytes("a"));
  for (size_t i = 0; i < digest.size(); ++i) {
    Digest other = digest;
    EXPECT_TRUE(EqualDigests(digest, other));
    other[i] ^= std::byte{1};
    EXPECT_FALSE(EqualDigests(digest, other));
  }
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
