// Engine: what VMs of one owner share: /dev/kvm, the event loop threads that serve devices, and
// workers for blocking steps. Nothing here is global: several engines live in one process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/thread_stacks.h"
#include "base/worker_pool.h"
#include "devices/virtio/block_medium.h"
#include "kvm/host.h"
#include "kvm/kvm_fd.h"
#include "memory/capture.h"
#include "memory/single_page_faults.h"
#include "snapshot/machine_state.h"
#include "vcpu/vcpu_state.h"
#include "vm/shell_pool.h"

namespace vmfork {

class StartQueue;

struct EngineOptions {
  std::string scratch_directory;  // where scratch disks lie; empty: in memory
  ShellLimits shells;
  int vcpu_nice = 0;  // of vCPU threads, 0 to 19
};

class Engine {
 public:
  // Opens /dev/kvm and starts the threads. Errors: kKvmMissing, kKvmDenied, kKvmCapability,
  // kSystem.
  static Result<std::shared_ptr<Engine>> Create(EngineOptions options = {});
  ~Engine();

  const Kvm& GetKvm() const { return kvm_; }
  const HostInfo& Host() const { return host_; }
  // Constant answers of /dev/kvm, asked once: forks do not repeat them.
  size_t VcpuMappingSize() const { return vcpu_mapping_size_; }
  const std::vector<kvm_cpuid_entry2>& SupportedCpuid() const { return supported_cpuid_; }
  const VcpuStateFormat& VcpuFormat() const { return vcpu_format_; }
  int VcpuNice() const { return vcpu_nice_; }
  ThreadStacks& VcpuStacks() const { return *vcpu_stacks_; }
  const SinglePageFaults& Faults() const { return faults_; }  // of guests' memory
  bool HasTscControl() const { return has_tsc_control_; }     // a vCPU's TSC rate can be set
  // Machines that exist.
  class Resident {
   public:
    explicit Resident(Engine& engine) : count_(engine.machines_) { ++count_; }
    ~Resident() { --count_; }
    Resident(const Resident&) = delete;
    Resident& operator=(const Resident&) = delete;

   private:
    std::atomic<uint32_t>& count_;
  };
  uint32_t Machines() const { return machines_; }
  // The loop that serves the devices of the next shell's machines (round robin).
  EventLoop& NextLoop() const;
  // Where machines that are forked wait for their turn to start.
  StartQueue& Starts() { return *starts_; }
  // For steps that block: boots, forks, saves, teardown. Tasks run in any order.
  WorkerPool& Workers() { return *workers_; }
  // For ending VMs: closing one waits for grace periods of the kernel, and no fork should wait
  // behind that.
  WorkerPool& Reapers() { return *reapers_; }
  // For requests to disks that have to wait for the host.
  WorkerPool& DiskThreads() const { return *disk_threads_; }
  // For scrubs; started by the first.
  WorkerPool& Scrubber();
  BlockImages& Images() { return images_; }
  ShellPool& Shells() { return *shells_; }
  // What was frozen of clones.
  const std::shared_ptr<LayerTally>& CloneLayers() const { return clone_layers_; }
  const std::string& ScratchDirectory() const { return scratch_directory_; }

 private:
  Engine(Kvm kvm, HostInfo host);

  Kvm kvm_;
  HostInfo host_;
  size_t vcpu_mapping_size_ = 0;
  std::vector<kvm_cpuid_entry2> supported_cpuid_;
  VcpuStateFormat vcpu_format_;
  bool has_tsc_control_ = false;
  SinglePageFaults faults_ = SinglePageFaults::Open();
  int vcpu_nice_ = 0;
  // Of shells, which a reaper may still let go of.
  const std::unique_ptr<ThreadStacks> vcpu_stacks_ = std::make_unique<ThreadStacks>();
  std::vector<std::unique_ptr<EventLoop>> loops_;
  std::unique_ptr<StartQueue> starts_;
  mutable std::atomic<uint32_t> next_loop_ = 0;
  std::atomic<uint32_t> machines_ = 0;
  std::unique_ptr<WorkerPool> workers_;
  std::unique_ptr<WorkerPool> reapers_;
  std::unique_ptr<WorkerPool> disk_threads_;
  std::once_flag scrubber_once_;
  std::unique_ptr<WorkerPool> scrubber_;
  BlockImages images_;
  const std::shared_ptr<LayerTally> clone_layers_ = std::make_shared<LayerTally>();
  std::string scratch_directory_;
  std::unique_ptr<ShellPool> shells_;
};

}  // namespace vmfork
