// Media that come and go, requests that are under way meanwhile, and the files behind.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>
#include <thread>

#include "tests/block_guest.h"
#include "tests/folder.h"

namespace vmfork::testing {
namespace {

constexpr auto kReadWrite = BlockDevice::Access::kReadWrite;
constexpr auto kReadOnly = BlockDevice::Access::kReadOnly;
constexpr auto kScratch = BlockMedium::Kind::kScratch;

uint32_t Capacity(DiskMachine& d) { return d.m.driver.Read(VIRTIO_MMIO_CONFIG); }

TEST(EmptyDriveHasNoSectorsAndAnswersAll) {
  DiskMachine d({}, kReadWrite);
  EXPECT_EQ(Capacity(d), 0U);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 0, 512).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_IN, 0, 0).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Write(0, std::string(512, 'x')), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 0, 0), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_FLUSH, 0, 0).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Request(VIRTIO_BLK_T_GET_ID, 0, 20).data, std::string(20, '\0'));
}

TEST(GuestHearsOfEveryMedium) {
  DiskMachine d({}, kReadOnly);
  const auto generation = [&d] { return d.m.driver.Read(VIRTIO_MMIO_CONFIG_GENERATION); };
  const uint32_t first = generation();
  EXPECT_TRUE(d.m.device->Insert(MakeDisk(RandomContent())).has_value());
  EXPECT_EQ(d.m.driver.WaitInterrupt().value_or(0), uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_NE(generation(), first);
  EXPECT_EQ(Capacity(d), 64U);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == RandomContent());
  EXPECT_TRUE(d.m.device->Insert(MakeDisk("")).error().code == ErrorCode::kDisk);
  EXPECT_TRUE(d.m.device->Eject().has_value());
  EXPECT_EQ(d.m.driver.WaitInterrupt().value_or(0) & VIRTIO_MMIO_INT_CONFIG,
            uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_EQ(Capacity(d), 0U);
  EXPECT_TRUE(d.m.device->Eject().error().code == ErrorCode::kDisk);
  EXPECT_TRUE(d.m.device->Insert(MakeDisk(RandomContent(), kScratch)).error().code ==
              ErrorCode::kDisk);
  EXPECT_TRUE(d.m.device->Insert(MakeDisk(RandomContent(1024))).has_value());
  EXPECT_EQ(Capacity(d), 2U);
}

TEST(EjectWaitsForRequestsUnderWay) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite, 1);
  const std::weak_ptr<const BlockMedium> medium = d.m.device->Disk().medium;
  Blocker blocker(d.threads);
  const auto sent = d.Send(VIRTIO_BLK_T_OUT, 0, 0, std::string(512, 'x'));
  d.m.transport.Notify();
  std::atomic<bool> ejected = false;
  std::thread ejector([&] {
    EXPECT_TRUE(d.m.device->Eject().has_value());
    ejected = true;
  });
  while (Capacity(d) != 0) std::this_thread::yield();
  EXPECT_FALSE(ejected.load());
  EXPECT_FALSE(medium.expired());
  blocker.Release();
  ejector.join();
  EXPECT_EQ(d.Read(sent).status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(medium.expired());
}

TEST(PauseWaitsForRequestsUnderWayAndSavesTheirAnswers) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite, 1);
  Blocker blocker(d.threads);
  const auto sent = d.Send(VIRTIO_BLK_T_OUT, 0, 0, std::string(512, 'x'));
  d.m.transport.Notify();
  std::thread releaser([&blocker] { blocker.Release(); });
  d.m.transport.Pause();
  EXPECT_EQ(d.Read(sent).status, VIRTIO_BLK_S_OK);
  releaser.join();
  ByteWriter out;
  d.m.transport.Save(out);
  d.m.transport.Resume();
  EXPECT_TRUE(d.m.driver.Complete(0).has_value());
  DiskMachine copy(MakeDisk(RandomContent(), kScratch), kReadWrite);
  copy.m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  std::memcpy(copy.m.ram.At(0), d.m.ram.At(0), d.m.ram.Size());
  ByteReader in(out.Bytes());
  EXPECT_TRUE(copy.m.transport.Restore(in).has_value());
}

TEST(ResetForgetsRequestsThatWait) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite, 1);
  Blocker blocker(d.threads);
  const auto sent = d.Send(VIRTIO_BLK_T_OUT, 0, 0, std::string(512, 'x'));
  *d.m.ram.At(sent.gpa + sizeof(virtio_blk_outhdr) + 512) = std::byte{0x77};
  d.m.transport.Notify();
  d.m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  d.m.driver.Start();
  blocker.Release();
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, kDiskBytes).data == RandomContent());
  EXPECT_EQ(d.Read(sent).status, uint8_t{0x77});
}

TEST(MachineEndsWithRequestsUnderWay) {
  WorkerPool threads(1, "disk");
  Blocker blocker(threads);
  std::thread releaser;
  {
    TestMachine<BlockDevice> m(threads, kReadWrite, MakeDisk(RandomContent(), kScratch));
    m.driver.Start();
    const uint64_t gpa = m.ram.Allocate(1024);
    const virtio_blk_outhdr header{VIRTIO_BLK_T_OUT, 0, 0};
    std::memcpy(m.ram.At(gpa), &header, sizeof header);
    for (int i = 0; i < 8; ++i) m.driver.queues[0].Add({{gpa, 16 + 512}, {gpa + 1000, 1, true}});
    m.transport.Notify();
    releaser = std::thread([&blocker] { blocker.Release(); });
  }
  releaser.join();
}

TEST(ManyWritesAreAllAnsweredOnce) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite, 4);
  std::string content;
  size_t answered = 0;
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 16; ++i) {
      const std::string sector(512, static_cast<char>('a' + i + round));
      content = i == 0 ? sector : content + sector;
      d.Send(VIRTIO_BLK_T_OUT, static_cast<uint64_t>(i), 0, sector);
    }
    for (int i = 0; i < 16; ++i) answered += d.m.driver.Complete(0).has_value() ? 1 : 0;
  }
  EXPECT_EQ(answered, size_t{64});
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, 16 * 512).data == content);
}

TEST(DriverThatRepeatsAHeadIsHeldToTheRingsSize) {
  DiskMachine d(MakeDisk(RandomContent(), kScratch), kReadWrite, 1);
  Blocker blocker(d.threads);
  d.Send(VIRTIO_BLK_T_OUT, 0, 0, std::string(512, 'x'));
  d.m.transport.Notify();
  uint16_t head = 0;
  std::memcpy(&head, d.m.ram.At(d.m.driver.queues[0].available + 4), sizeof head);
  for (int i = 1; i < 100; ++i) {
    d.m.driver.queues[0].Publish(head);
    d.m.transport.Notify();
  }
  EXPECT_EQ(d.m.transport.Violations(), uint64_t{1});
  EXPECT_TRUE((d.m.driver.Read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
  blocker.Release();
  d.m.transport.Pause();
  ByteWriter out;
  d.m.transport.Save(out);
  DiskMachine copy(MakeDisk(RandomContent(), kScratch), kReadWrite);
  copy.m.driver.Write(VIRTIO_MMIO_STATUS, 0);
  ByteReader in(out.Bytes());
  EXPECT_TRUE(copy.m.transport.Restore(in).has_value());
}

TEST(FlatCopiesAreEqualAndSparse) {
  const Folder folder;
  for (const std::string& place : {std::string(), folder / "made/when/needed"}) {
    auto scratch = BlockMedium::MakeScratch(64 << 20, place).value();
    const std::string content = RandomContent();
    std::ignore = WriteFully(scratch->Fd(), std::as_bytes(std::span(content)), 32 << 20);
    const UniqueFd copy = MakeNamelessFile(0, place).value();
    EXPECT_TRUE(scratch->CopyTo(copy.Get()).has_value());
    std::string read(kDiskBytes, '\0');
    EXPECT_EQ(::pread(copy.Get(), read.data(), read.size(), 32 << 20),
              static_cast<ssize_t>(kDiskBytes));
    EXPECT_TRUE(read == content);
    struct stat status{};
    ::fstat(copy.Get(), &status);
    EXPECT_LT(status.st_blocks, 1024);
    EXPECT_EQ(status.st_size, 64 << 20);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder / "made/when/needed"));
}

TEST(ImagesAreOpenOnce) {
  const Folder folder;
  const std::string name = folder / "image";
  const UniqueFd fd(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::string content = RandomContent();
  std::ignore = WriteFully(fd.Get(), std::as_bytes(std::span(content)), 0);
  const auto open = [&name](BlockMedium::Kind kind) {
    return BlockMedium::Open(name, kind, ErrorCode::kDisk).value();
  };
  BlockImages images;
  auto first = images.Share(open(BlockMedium::Kind::kImage));
  EXPECT_TRUE(images.Share(open(BlockMedium::Kind::kImage)) == first);
  EXPECT_FALSE(images.Share(open(BlockMedium::Kind::kFile)) == first);
  std::ignore = WriteFully(fd.Get(), std::as_bytes(std::span("more")), kDiskBytes);
  EXPECT_FALSE(images.Share(open(BlockMedium::Kind::kImage)) == first);
}

TEST(WhatIsNoDiskIsRefused) {
  for (const char* path : {"/nowhere/disk", "/tmp", "/dev/null"}) {
    auto medium = BlockMedium::Open(path, BlockMedium::Kind::kImage, ErrorCode::kDisk);
    EXPECT_TRUE(medium.error().code == ErrorCode::kDisk);
    EXPECT_TRUE(medium.error().ToString().find(path) != std::string::npos);
  }
  const Folder folder;
  const std::string fifo = folder / "fifo";
  EXPECT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  auto medium = BlockMedium::Open(fifo, BlockMedium::Kind::kImage, ErrorCode::kDisk);
  EXPECT_TRUE(medium.error().code == ErrorCode::kDisk);
}

// A nameless file on a filesystem of 64 KiB that nobody else sees. The mount is made in a namespace
// of a child, and lives on with the descriptor that the child hands over.
UniqueFd FileOnASmallFilesystem() {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0) return {};
  char control[CMSG_SPACE(sizeof(int))] = {};
  char byte = 0;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(1);
    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (::mount("small", "/tmp", "tmpfs", 0, "size=64k") != 0) ::_exit(2);
    const int fd = ::open("/tmp/disk", O_RDWR | O_CREAT, 0600);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ::_exit(::sendmsg(pair[1], &message, 0) == 1 ? 0 : 3);
  }
  const UniqueFd receiver(pair[0]);
  ::close(pair[1]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  if (::recvmsg(receiver.Get(), &message, MSG_DONTWAIT) != 1) return {};
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return UniqueFd(fd);
}

TEST(FullHostDiskIsAnErrorForTheGuest) {
  UniqueFd fd = FileOnASmallFilesystem();
  ASSERT_TRUE(fd.IsValid());
  constexpr uint64_t kBytes = 1 << 20;
  EXPECT_EQ(::ftruncate(fd.Get(), kBytes), 0);
  const BlockMedium::Identity identity{.size_bytes = kBytes};
  DiskMachine d(
      {.medium = std::make_shared<const BlockMedium>(std::move(fd), kScratch, identity, ""),
       .serial = {}},
      kReadWrite);
  EXPECT_EQ(d.Write(0, std::string(32768, 'x')), VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Write(64, std::string(131072, 'y')), VIRTIO_BLK_S_IOERR);
  EXPECT_TRUE(d.Request(VIRTIO_BLK_T_IN, 0, 32768).data == std::string(32768, 'x'));
  EXPECT_EQ(d.Clear(VIRTIO_BLK_T_DISCARD, 0, kBytes / 512), VIRTIO_BLK_S_OK);
  EXPECT_EQ(d.Write(64, std::string(32768, 'z')), VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace vmfork::testing

TEST_MAIN()
