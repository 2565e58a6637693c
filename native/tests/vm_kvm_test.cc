// Whole machines on /dev/kvm with guests of a few bytes of machine code: boot, ends of every kind,
// pause, fork, teardown. Small enough to run under the sanitizers. Without /dev/kvm it says so and
// fails: scripts/test.mjs decides whether to run it.
#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "tests/test.h"
#include "vm/vm.h"

namespace vmfork {
namespace {

using Code = std::vector<uint8_t>;

// mov $0x3f8,%dx; then for each character: mov $c,%al; out %al,(%dx)
Code Print(const char* text) {
  Code code = {0x66, 0xba, 0xf8, 0x03};
  for (; *text != '\0'; ++text) code.insert(code.end(), {0xb0, static_cast<uint8_t>(*text), 0xee});
  return code;
}
const Code kSpin = {0xeb, 0xfe};        // jmp .
const Code kHalt = {0xf4, 0xeb, 0xfd};  // hlt; jmp to it: interrupts are off, so it sleeps for good
const Code kUndefined = {0x0f, 0x0b};   // ud2 without an IDT: triple fault
const Code kReset = {0xb0, 0xfe, 0xe6, 0x64};  // mov $0xfe,%al; out %al,$0x64
// Counts at 0x1800000 and prints '0' + count % 8 for ever: mov $0x3f8,%dx; L: incl 0x1800000; mov
// 0x1800000,%al; and $7,%al; add $'0',%al; out %al,(%dx); jmp L
const Code kCount = {0x66, 0xba, 0xf8, 0x03, 0xff, 0x04, 0x25, 0x00, 0x00, 0x80, 0x01, 0x8a, 0x04,
                     0x25, 0x00, 0x00, 0x80, 0x01, 0x24, 0x07, 0x04, 0x30, 0xee, 0xeb, 0xeb};

Code operator+(Code first, const Code& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// An ELF kernel of that code, in a file that is removed again.
class KernelFile {
 public:
  explicit KernelFile(const Code& code) {
    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 1;
    header.e_phoff = sizeof header;
    header.e_entry = 0x1000000;
    Elf64_Phdr segment{};
    segment.p_type = PT_LOAD;
    segment.p_offset = sizeof header + sizeof segment;
    segment.p_paddr = header.e_entry;
    segment.p_filesz = code.size();
    segment.p_memsz = 4096;
    const int fd = ::mkstemp(path_.data());
    for (auto [data, size] : {std::pair<const void*, size_t>{&header, sizeof header},
                              {&segment, sizeof segment},
                              {code.data(), code.size()}}) {
      EXPECT_EQ(::write(fd, data, size), static_cast<ssize_t>(size));
    }
    ::close(fd);
  }
  ~KernelFile() { ::unlink(path_.c_str()); }
  const std::string& Path() const { return path_; }

 private:
  std::string path_ = "/tmp/vmfork-test-XXXXXX";
};

class Observer : public VmObserver {
 public:
  void OnExit(const Error& reason) override {
    code = reason.code;
    ended = true;
    ended.notify_all();
  }
  void OnConnection(uint32_t, uint32_t, UniqueFd) override {}
  void OnConsole(std::span<const std::byte>) override {}

  std::atomic<bool> ended = false;
  std::atomic<ErrorCode> code = ErrorCode::kInternal;
};

std::shared_ptr<Engine> TestEngine() {
  auto engine = Engine::Create();
  if (!engine) std::fprintf(stderr, "no engine: %s\n", engine.error().ToString().c_str());
  return engine ? *engine : nullptr;
}

Result<std::shared_ptr<Vm>> Boot(const std::shared_ptr<Engine>& engine, const Code& code,
                                 std::shared_ptr<Observer> observer = std::make_shared<Observer>(),
                                 uint32_t vcpus = 1) {
  const KernelFile kernel(code);
  BootOptions options;
  options.kernel_path = kernel.Path();
  options.memory_bytes = 32 << 20;
  options.vcpus = vcpus;
  return Vm::Boot(engine, options, std::move(observer));
}

bool WaitForConsole(const Vm& vm, std::string_view text) {
  for (int i = 0; i < 2000; ++i) {
    if (vm.ConsoleTail().find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return false;
}

ErrorCode EndOf(const Code& code) {
  auto engine = TestEngine();
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(engine, code, observer);
  EXPECT_TRUE(vm.has_value());
  observer->ended.wait(false);
  return observer->code;
}

TEST(GuestPrintsToTheConsole) {
  auto vm = Boot(TestEngine(), Print("hello from a guest") + kHalt);
  EXPECT_TRUE(vm.has_value());
  EXPECT_TRUE(WaitForConsole(**vm, "hello from a guest"));
}

TEST(TripleFaultEndsTheVmAsACrash) { EXPECT_TRUE(EndOf(kUndefined) == ErrorCode::kGuestCrash); }
TEST(ResetLineEndsTheVmAsAReset) { EXPECT_TRUE(EndOf(kReset + kSpin) == ErrorCode::kGuestReset); }
TEST(PanicTextMakesAResetAPanic) {
  EXPECT_TRUE(EndOf(Print("Kernel panic - not syncing: no init\n") + kReset + kSpin) ==
              ErrorCode::kGuestPanic);
}

TEST(DestroyEndsASpinningGuestAndMayBeRepeated) {
  auto observer = std::make_shared<Observer>();
  auto vm = Boot(TestEngine(), Print("x") + kSpin, observer, 2);
  EXPECT_TRUE(WaitForConsole(**vm, "x"));
  (*vm)->Destroy();
  (*vm)->Destroy();
  EXPECT_FALSE(observer->ended.load());
  EXPECT_EQ((*vm)->ConsoleTail(), "x");
  EXPECT_TRUE((*vm)->Pause().error().code == ErrorCode::kGone);
  EXPECT_TRUE((*vm)->Memory().error().code == ErrorCode::kGone);
}

TEST(PausedGuestStandsStill) {
  auto vm = Boot(TestEngine(), kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  const std::string before = (*vm)->ConsoleTail();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE((*vm)->ConsoleTail() == before);
  EXPECT_TRUE((*vm)->Resume().has_value());
  for (int i = 0; i < 2000 && (*vm)->ConsoleTail() == before; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE((*vm)->ConsoleTail() == before);
}

TEST(ClonesCountOnFromWhereTheyWereForked) {
  auto engine = TestEngine();
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Freeze().error().code == ErrorCode::kState);
  EXPECT_TRUE((*vm)->Pause().has_value());
  const std::string source = (*vm)->ConsoleTail();
  auto snapshot = (*vm)->Freeze();
  EXPECT_TRUE(snapshot.has_value());
  const char next = static_cast<char>('0' + (source.back() - '0' + 1) % 8);
  for (int i = 0; i < 3; ++i) {
    auto observer = std::make_shared<Observer>();
    auto machine = Vm::Fork(engine, *snapshot, {}, observer);
    EXPECT_TRUE(machine.has_value());
    EXPECT_TRUE(WaitForConsole(**machine, "01234567"));
    EXPECT_EQ((*machine)->ConsoleTail().substr(0, 1), std::string(1, next));
    auto memory = (*machine)->Memory();
    EXPECT_TRUE(memory.has_value() && memory->owned >= 4096 && memory->owned < (1 << 20));
  }
  EXPECT_TRUE((*vm)->ConsoleTail() == source);
}

TEST(SavedSnapshotLoadsAndRuns) {
  auto engine = TestEngine();
  std::string directory = "/tmp/vmfork-test-XXXXXX";
  EXPECT_TRUE(::mkdtemp(directory.data()) != nullptr);
  const std::string path = directory + "/snapshot";
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "01234567"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  auto snapshot = (*vm)->Freeze();
  SaveOptions options;
  options.metadata = "{}";
  EXPECT_TRUE((*snapshot)->Save(path, options).has_value());
  EXPECT_FALSE((*snapshot)->Save(path, options).has_value());
  auto loaded = Snapshot::Load(*engine, path, {});
  EXPECT_TRUE(loaded.has_value());
  EXPECT_EQ((*loaded)->Metadata(), "{}");
  auto clone = Vm::Fork(engine, *loaded, {}, std::make_shared<Observer>());
  EXPECT_TRUE(clone.has_value() && WaitForConsole(**clone, "01234567"));
  EXPECT_EQ(::truncate((path + "/memory").c_str(), 4096), 0);
  EXPECT_TRUE(Snapshot::Load(*engine, path, {}).error().code == ErrorCode::kSnapshotInvalid);
  clone = Fail(ErrorCode::kGone, "");  // before its memory's file goes
  std::filesystem::remove_all(directory);
}

TEST(ImpossibleMemorySizesAreRefused) {
  BootOptions options;
  options.kernel_path = "/dev/null";
  for (uint64_t bytes :
       {uint64_t{0}, uint64_t{1} << 20, uint64_t{1} << 40, (uint64_t{64} << 20) + 1}) {
    options.memory_bytes = bytes;
    EXPECT_TRUE(Vm::Boot(TestEngine(), options, nullptr).error().code == ErrorCode::kMemorySize);
  }
}

TEST(MissingKernelIsNamed) {
  BootOptions options;
  options.kernel_path = "/nowhere/vmlinux";
  options.memory_bytes = 32 << 20;
  auto vm = Vm::Boot(TestEngine(), options, nullptr);
  EXPECT_TRUE(vm.error().code == ErrorCode::kKernelNotFound);
  EXPECT_TRUE(vm.error().ToString().find("/nowhere/vmlinux") != std::string::npos);
}

TEST(ManyForksLeaveNothingBehind) {
  auto engine = TestEngine();
  auto vm = Boot(engine, kCount);
  EXPECT_TRUE(WaitForConsole(**vm, "0123"));
  EXPECT_TRUE((*vm)->Pause().has_value());
  auto snapshot = (*vm)->Freeze();
  auto count = [](const char* directory) {
    return std::distance(std::filesystem::directory_iterator(directory),
                         std::filesystem::directory_iterator());
  };
  auto fork_some = [&](int rounds) {
    for (int i = 0; i < rounds; ++i)
      EXPECT_TRUE(Vm::Fork(engine, *snapshot, {}, std::make_shared<Observer>()).has_value());
  };
  fork_some(3);
  const auto fds = count("/proc/self/fd"), threads = count("/proc/self/task");
  fork_some(20);
  EXPECT_EQ(count("/proc/self/fd"), fds);
  EXPECT_EQ(count("/proc/self/task"), threads);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
