// Guests of a few bytes of machine code, for tests on /dev/kvm.
#pragma once

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/test.h"
#include "vm/vm.h"

namespace vmfork {

using Code = std::vector<uint8_t>;

// mov $0x3f8,%dx; then for each character: mov $c,%al; out %al,(%dx)
inline Code Print(const char* text) {
  Code code = {0x66, 0xba, 0xf8, 0x03};
  for (; *text != '\0'; ++text) code.insert(code.end(), {0xb0, static_cast<uint8_t>(*text), 0xee});
  return code;
}
inline const Code kSpin = {0xeb, 0xfe};  // jmp .
inline const Code kHalt = {0xf4, 0xeb,
                           0xfd};  // hlt; jmp to it: interrupts are off, so it sleeps for good
inline const Code kUndefined = {0x0f, 0x0b};          // ud2 without an IDT: triple fault
inline const Code kReset = {0xb0, 0xfe, 0xe6, 0x64};  // mov $0xfe,%al; out %al,$0x64
// Counts at 0x1800000 and prints '0' + count % 8 for ever: mov $0x3f8,%dx; L: incl 0x1800000; mov
// 0x1800000,%al; and $7,%al; add $'0',%al; out %al,(%dx); jmp L
inline const Code kCount = {0x66, 0xba, 0xf8, 0x03, 0xff, 0x04, 0x25, 0x00, 0x00,
                            0x80, 0x01, 0x8a, 0x04, 0x25, 0x00, 0x00, 0x80, 0x01,
                            0x24, 0x07, 0x04, 0x30, 0xee, 0xeb, 0xeb};

inline Code operator+(Code first, const Code& second) {
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
  void OnExit(uint32_t, const Error& reason) override {
    code = reason.code;
    ended = true;
    ended.notify_all();
  }
  void OnConnection(uint32_t, uint32_t, UniqueFd) override {}
  void OnConsole(std::span<const std::byte>) override {}

  std::atomic<bool> ended = false;
  std::atomic<ErrorCode> code = ErrorCode::kInternal;
};

inline std::shared_ptr<Engine> TestEngine(ShellLimits shells = {}) {
  auto engine = Engine::Create({.scratch_directory = {}, .shells = shells});
  if (!engine) std::fprintf(stderr, "no engine: %s\n", engine.error().ToString().c_str());
  return engine ? *engine : nullptr;
}

inline Result<std::shared_ptr<Vm>> Boot(
    const std::shared_ptr<Engine>& engine, const Code& code,
    std::shared_ptr<Observer> observer = std::make_shared<Observer>(), uint32_t vcpus = 1) {
  const KernelFile kernel(code);
  BootOptions options;
  options.kernel_path = kernel.Path();
  options.memory_bytes = 32 << 20;
  options.vcpus = vcpus;
  return Vm::Boot(engine, options, std::move(observer));
}

inline bool WaitForConsole(const Vm& vm, std::string_view text) {
  for (int i = 0; i < 2000; ++i) {
    if (vm.ConsoleTail().find(text) != std::string::npos) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return false;
}

}  // namespace vmfork
