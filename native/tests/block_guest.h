// A machine with one disk and a driver that sends it requests.
#ifndef VMFORK_TESTS_BLOCK_GUEST_H_
#define VMFORK_TESTS_BLOCK_GUEST_H_

#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <latch>
#include <random>
#include <string>

#include "base/file.h"
#include "devices/virtio/block.h"
#include "tests/test.h"
#include "tests/virtio_driver.h"

namespace vmfork::testing {

inline constexpr uint64_t kDiskBytes = 64 * 512;

inline std::string RandomContent(uint64_t size = kDiskBytes) {
  std::minstd_rand random{1};
  std::string content(size, '\0');
  for (char& byte : content) byte = static_cast<char>(random());
  return content;
}

// A medium in memory.
inline BlockDisk MakeDisk(const std::string& content,
                          BlockMedium::Kind kind = BlockMedium::Kind::kImage) {
  UniqueFd fd(::memfd_create("disk", MFD_CLOEXEC));
  std::ignore = WriteFully(fd.Get(), std::as_bytes(std::span(content)), 0);
  const BlockMedium::Identity identity{.size_bytes = content.size()};
  return {.medium = std::make_shared<const BlockMedium>(std::move(fd), kind, identity, ""),
          .serial = "serial-number"};
}

// As the device reads it.
inline std::string ContentOf(const BlockMedium& medium) {
  std::string content(medium.SizeBytes(), '\0');
  for (uint64_t at = 0; at < content.size();) {
    const auto [fd, size] = medium.Find(at, content.size() - at);
    if (::pread(fd, content.data() + at, size, static_cast<off_t>(at)) !=
        static_cast<ssize_t>(size))
      return "unreadable";
    at += size;
  }
  return content;
}

struct DiskMachine {
  using Access = BlockDevice::Access;

  explicit DiskMachine(BlockDisk disk = MakeDisk(RandomContent()),
                       Access access = Access::kReadOnly, unsigned thread_count = 2)
      : threads(thread_count, "disk"), m(threads, access, std::move(disk)) {
    m.driver.Start();
  }

  struct Answer {
    uint8_t status = 0xff;
    std::string data;
    uint32_t used_bytes = 0;
  };
  struct Sent {
    uint64_t gpa;
    size_t payload_bytes;
    uint32_t size;
  };

  // Puts a request into the ring; the device writes `size` bytes and the status.
  Sent Send(uint32_t type, uint64_t sector, uint32_t size, const std::string& payload = {}) {
    const virtio_blk_outhdr header{type, 0, sector};
    const uint64_t gpa = m.ram.Allocate(sizeof header + payload.size() + size + 1);
    std::memcpy(m.ram.At(gpa), &header, sizeof header);
    std::memcpy(m.ram.At(gpa + sizeof header), payload.data(), payload.size());
    std::vector<TestBuffer> chain{{gpa, sizeof header}};
    const uint64_t behind = gpa + sizeof header + payload.size();
    if (!payload.empty())
      chain.push_back({gpa + sizeof header, static_cast<uint32_t>(payload.size())});
    if (size > 0) chain.push_back({behind, size, true});
    chain.push_back({behind + size, 1, true});
    m.driver.queues[0].Add(chain);
    return {gpa, payload.size(), size};
  }
  Answer Read(const Sent& sent) {
    const auto* bytes = reinterpret_cast<const char*>(
        m.ram.At(sent.gpa + sizeof(virtio_blk_outhdr) + sent.payload_bytes));
    return {static_cast<uint8_t>(bytes[sent.size]), std::string(bytes, sent.size)};
  }
  // Sends it and sleeps until it is answered.
  Answer Request(uint32_t type, uint64_t sector, uint32_t size, const std::string& payload = {}) {
    const Sent sent = Send(type, sector, size, payload);
    const auto used = m.driver.Complete(0);
    if (!used) return {};
    Answer answer = Read(sent);
    answer.used_bytes = used->bytes;
    return answer;
  }
  uint8_t Write(uint64_t sector, const std::string& payload) {
    return Request(VIRTIO_BLK_T_OUT, sector, 0, payload).status;
  }
  uint8_t Clear(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    const virtio_blk_discard_write_zeroes segment{sector, sectors, flags};
    const std::string payload(reinterpret_cast<const char*>(&segment), sizeof segment);
    return Request(type, 0, 0, payload).status;
  }

  WorkerPool threads;
  TestMachine<BlockDevice> m;
};

// Keeps a pool of one thread busy until released.
class Blocker {
 public:
  explicit Blocker(WorkerPool& threads) {
    threads.Submit([latch = latch_] { latch->wait(); });
  }
  ~Blocker() { Release(); }
  void Release() {
    if (!released_) latch_->count_down();
    released_ = true;
  }

 private:
  std::shared_ptr<std::latch> latch_ = std::make_shared<std::latch>(1);
  bool released_ = false;
};

}  // namespace vmfork::testing

#endif  // VMFORK_TESTS_BLOCK_GUEST_H_
