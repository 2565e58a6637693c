// What a process holds: to see that nothing is left behind.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "tests/test.h"

namespace vmfork {

struct Held {
  size_t descriptors = 0;
  size_t threads = 0;
  size_t mappings = 0;         // of vCPUs, images and saved memory
  uint64_t virtual_bytes = 0;  // all address space

  // Threads' caches come and go; what is looked for is a view of a guest's memory, 32 MiB.
  static constexpr uint64_t kNoiseBytes = 28 << 20;

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

}  // namespace vmfork
