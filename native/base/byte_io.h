// ByteWriter and ByteReader: little-endian values in and out of a byte string, for saved state. The
// reader never reads past its end: after a short read it stays failed and yields zeros, so a
// decoder checks Ok() once at its end (and before it trusts counts).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace vmfork {

class ByteWriter {
 public:
  template <typename T>
    requires std::is_integral_v<T>
  void Put(T value) {
    PutBytes(std::as_bytes(std::span(&value, 1)));
  }
  // A kernel structure as it is in memory; its layout is ABI.
  template <typename T>
    requires(std::is_trivially_copyable_v<T> && !std::is_integral_v<T>)
  void PutStruct(const T& value) {
    PutBytes(std::as_bytes(std::span(&value, 1)));
  }
  void PutBytes(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  // u32 length, then the bytes.
  void PutBlock(std::span<const std::byte> bytes) {
    Put(static_cast<uint32_t>(bytes.size()));
    PutBytes(bytes);
  }
  void PutText(std::string_view text) { PutBlock(std::as_bytes(std::span(text))); }
  std::span<const std::byte> Bytes() const { return bytes_; }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename T>
    requires std::is_integral_v<T>
  T Get() {
    T value{};
    Copy(&value, sizeof value);
    return value;
  }
  template <typename T>
    requires(std::is_trivially_copyable_v<T> && !std::is_integral_v<T>)
  T GetStruct() {
    T value{};
    Copy(&value, sizeof value);
    return value;
  }
  // A view of the next `size` bytes; empty and failed when there are fewer.
  std::span<const std::byte> GetBytes(size_t size) {
    if (failed_ || size > rest_.size()) {
      failed_ = true;
      return {};
    }
    auto bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
  }
  std::span<const std::byte> GetBlock() { return GetBytes(Get<uint32_t>()); }
  std::string GetText() {
    const auto bytes = GetBlock();
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  bool Ok() const { return !failed_; }
  // All consumed, nothing missing.
  bool AtEnd() const { return !failed_ && rest_.empty(); }
  size_t Remaining() const { return rest_.size(); }

 private:
  void Copy(void* to, size_t size) {
    auto bytes = GetBytes(size);
    if (!bytes.empty()) std::memcpy(to, bytes.data(), size);
  }
  std::span<const std::byte> rest_;
  bool failed_ = false;
};

}  // namespace vmfork
