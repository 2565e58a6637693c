// What tests of failing calls share: what a process holds, and an operation that fails at its first
// call to the kernel, at its second, and so on, until it gets by.
#pragma once

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "base/result.h"
#include "tests/faults.h"
#include "tests/test.h"

namespace vmfork {

// What a failed operation must not leave behind.
struct Held {
  size_t descriptors = 0;
  size_t threads = 0;
  size_t mappings = 0;         // of vCPUs, images and saved memory
  uint64_t virtual_bytes = 0;  // all address space

  // Threads' caches come and go; what is looked for is a view of a guest's memory.
  static constexpr uint64_t kNoiseBytes = 16 << 20;

  bool Covers(const Held& later) const {
    return later.descriptors <= descriptors && later.threads <= threads &&
           later.mappings <= mappings && later.virtual_bytes <= virtual_bytes + kNoiseBytes;
  }
  std::string ToString() const {
    return std::to_string(descriptors) + " descriptors, " + std::to_string(threads) + " threads, " +
           std::to_string(mappings) + " mappings, " + std::to_string(virtual_bytes >> 20) + " MiB";
  }
};

inline size_t EntriesOf(const char* directory) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++count;
  return count;
}

// Without KVM's own: newer kernels give a VM a worker when it first runs, and take it back with the
// VM's last descriptor (arch/x86/kvm/mmu/mmu.c, kvm_mmu_start_lpage_recovery()).
inline size_t OwnThreads() {
  size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (!name.empty() && !name.starts_with("kvm-")) ++count;
  }
  return count;
}

inline Held HeldNow() {
  Held held{.descriptors = EntriesOf("/proc/self/fd"), .threads = OwnThreads()};
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    for (const char* name : {"kvm-vcpu", "memfd:", "/memory"})
      if (line.find(name) != std::string::npos) ++held.mappings;
  }
  std::ifstream size("/proc/self/statm");
  size >> held.virtual_bytes;
  held.virtual_bytes *= static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return held;
}

// A thread that was joined, or a machine that is taken down in the background, may be seen for a
// moment longer.
inline void ExpectNoMoreThan(const Held& before, const char* where) {
  Held now = HeldNow();
  for (int i = 0; i < 2000 && !before.Covers(now); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    now = HeldNow();
  }
  if (before.Covers(now)) return;
  std::fprintf(stderr, "  after %s: %s, before: %s\n", where, now.ToString().c_str(),
               before.ToString().c_str());
  EXPECT_TRUE(before.Covers(now));
}

// An error that says what failed and why.
inline void ExpectTyped(const Error& error, const faults::Fault& fault) {
  const bool typed = error.code != ErrorCode::kInternal && !error.operation.empty() &&
                     error.error_number == fault.error_number;
  if (typed) return;
  std::fprintf(stderr, "  %s (0x%lx) failed with %d: %s %s\n", fault.call, fault.request,
               fault.error_number, std::string(ErrorCodeName(error.code)).c_str(),
               error.ToString().c_str());
  EXPECT_TRUE(typed);
}

// Calls `attempt`, which gives a Result, with its first, second, … call failing, until all succeed;
// returns how many failed. `prepare` makes the ground the same before each; `check` is to find all
// as it was, and that the next attempt works. Then nothing more may be held than before. A call
// whose failure an attempt may survive satisfies `tolerated`.
template <typename Prepare, typename Attempt, typename Check, typename Tolerated>
size_t FailAtEachCall(Prepare prepare, Attempt attempt, Check check, Tolerated tolerated) {
  constexpr size_t kMostCalls = 1000;
  for (size_t nth = 1; nth < kMostCalls; ++nth) {
    prepare();
    const Held before = HeldNow();
    faults::Arm(nth);
    auto result = attempt();
    const auto fault = faults::Disarm();
    if (!fault) {
      EXPECT_TRUE(result.has_value());
      return nth - 1;
    }
    if (result) {
      if (!tolerated(*fault)) std::fprintf(stderr, "  %s (0x%lx)\n", fault->call, fault->request);
      EXPECT_TRUE(tolerated(*fault));
    } else {
      ExpectTyped(result.error(), *fault);
    }
    result = Fail(ErrorCode::kGone, "let go of");
    check();
    prepare();
    ExpectNoMoreThan(before, fault->call);
    if (!testing::CurrentFailed()) continue;
    std::fprintf(stderr, "  at call %zu: %s (0x%lx)\n", nth, fault->call, fault->request);
    return nth;
  }
  EXPECT_TRUE(false);
  return 0;
}

}  // namespace vmfork
