// Start-up of an engine.
#include "vm/engine.h"

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <thread>

#include "base/out_of_memory.h"
#include "vm/start_queue.h"

namespace vmfork {

namespace {
constexpr unsigned kLoops = 2;
// Forks are dominated by kernel locks that more threads only contend for; a boot or save beside
// them must still find a thread.
constexpr unsigned kWorkers = 4;
constexpr unsigned kReapers = 2;
// More than processors: they wait for disks.
constexpr unsigned kDiskThreads = 4;
}  // namespace

// What threads and heaps throw is caught for all of it: nothing is half an engine.
Result<std::shared_ptr<Engine>> Engine::Create(EngineOptions options) try {
  VMFORK_TRY(kvm, Kvm::Open());
  VMFORK_TRY(host, ProbeHost(kvm));
  constexpr int kStableApi = 12;  // Documentation/virt/kvm/api.rst: anything else is to be refused
  if (host.api_version != kStableApi) {
    return Fail(ErrorCode::kKvmCapability, "KVM_GET_API_VERSION",
                "version " + std::to_string(host.api_version));
  }
  if (!host.missing.empty())
    return Fail(ErrorCode::kKvmCapability, "KVM_CHECK_EXTENSION", "KVM_CAP_" + host.missing[0]);
  VMFORK_TRY(mapping_size, kvm.VcpuMappingSize());
  VMFORK_TRY(cpuid, kvm.SupportedCpuid());
  VMFORK_TRY(msrs, kvm.MsrIndexList());
  std::shared_ptr<Engine> engine(new Engine(std::move(kvm), std::move(host)));
  engine->vcpu_mapping_size_ = mapping_size;
  engine->supported_cpuid_ = std::move(cpuid);
  engine->has_tsc_control_ = engine->kvm_.CheckExtension(KVM_CAP_TSC_CONTROL) != 0;
  // The capability's value is the size; 0 where KVM is older than the call.
  const auto xsave_bytes = static_cast<size_t>(engine->kvm_.CheckExtension(KVM_CAP_XSAVE2));
  engine->vcpu_format_ = {
      .xsave_bytes = std::max(xsave_bytes, kXsaveBytes),
      .has_xcrs = engine->kvm_.CheckExtension(KVM_CAP_XCRS) != 0,
      .has_triple_fault = engine->kvm_.CheckExtension(KVM_CAP_X86_TRIPLE_FAULT_EVENT) != 0,
      .msr_indices = GuestMsrs(std::move(msrs))};
  for (unsigned i = 0; i < kLoops; ++i) {
    VMFORK_TRY(loop, EventLoop::Start("vmfork-loop" + std::to_string(i)));
    engine->loops_.push_back(std::move(loop));
  }
  // One a processor: with two, forks waited twice as long for the memory lock, and crowds came up
  // no sooner.
  VMFORK_TRY(starts, StartQueue::Create(*engine->loops_.front(),
                                        std::max(1U, std::thread::hardware_concurrency())));
  engine->starts_ = std::move(starts);
  engine->workers_ = std::make_unique<WorkerPool>(kWorkers, "vmfork-work");
  engine->reapers_ =
      std::make_unique<WorkerPool>(kReapers, "vmfork-reap", WorkerPool::Kind::kBackground);
  engine->disk_threads_ = std::make_unique<WorkerPool>(kDiskThreads, "vmfork-disk");
  engine->vcpu_nice_ = options.vcpu_nice;
  engine->scratch_directory_ = std::move(options.scratch_directory);
  engine->shells_ = std::make_unique<ShellPool>(*engine, options.shells);
  return engine;
} catch (const std::system_error& error) {
  return Fail(ErrorCode::kNoMemory, "start threads", "thread limit reached", error.code().value());
} catch (const std::bad_alloc&) {
  return OutOfMemory("start engine");
}

Engine::Engine(Kvm kvm, HostInfo host) : kvm_(std::move(kvm)), host_(std::move(host)) {}

Engine::~Engine() = default;

WorkerPool& Engine::Scrubber() {
  try {
    std::call_once(scrubber_once_, [this] {
      scrubber_ = std::make_unique<WorkerPool>(1, "vmfork-scrub", WorkerPool::Kind::kLeisure);
    });
    return *scrubber_;
  } catch (const std::exception&) {
    return *workers_;  // where there can be no thread more, somebody else has to do it
  }
}

EventLoop& Engine::NextLoop() const { return *loops_[next_loop_.fetch_add(1) % loops_.size()]; }

}  // namespace vmfork
