// What a fork is compared with, without the library around it: the floor, which is the least that
// has to be done with a shell, one that is recycled or one that nobody has used, and a new VM, in
// the textbook order and in the cheapest.
//     fork_floor DIRECTORY N
// DIRECTORY is a snapshot saved whole, of one vCPU. Prints N samples of each as JSON.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string_view>

#include "boot/cpuid.h"
#include "kvm/ioctl.h"
#include "memory/layout.h"
#include "memory/page_scan.h"
#include "vm/machine.h"
#include "vm/snapshot.h"

namespace vmfork {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUpRounds = 3;
constexpr int kMaxSamples = 1'000'000;
constexpr useconds_t kRunCheckUs = 200;
constexpr int kRunChecks = 5000;  // a second in all
constexpr useconds_t kGuestTimeUs = 30'000;

double MsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// What both ways start from.
struct Template {
  std::shared_ptr<Engine> engine;
  std::shared_ptr<Snapshot> snapshot;

  const MachineState& State() const { return snapshot->State(); }
  uint64_t MemoryBytes() const { return snapshot->GetImage()->Size(); }
  // The one file that holds all of memory, each byte at its RAM offset; holes are zero.
  int MemoryFd() const { return snapshot->GetImage()->Extents().front().file->Get(); }
};

Result<Template> Open(const std::string& directory) {
  VMFORK_TRY(engine, Engine::Create({.scratch_directory = {}, .shells = {.ready = 0, .kept = 0}}));
  VMFORK_TRY(snapshot, Snapshot::Load(*engine, directory, {}));
  const auto extents = snapshot->GetImage()->Extents();
  bool is_whole = !extents.empty();
  for (const Extent& extent : extents) {
    is_whole =
        is_whole && extent.file == extents.front().file && extent.file_offset == extent.start;
  }
  if (!is_whole || snapshot->State().vcpus.size() != 1)
    return Fail(ErrorCode::kState, "open", directory + " is no whole snapshot of one vCPU");
  return Template{.engine = std::move(engine), .snapshot = std::move(snapshot)};
}

// A frozen guest may sleep until it is interrupted: the first virtio device's line wakes it.
Result<void> Interrupt(const VmFd& vm) {
  VMFORK_CHECK(vm.SetIrqLine(layout::kFirstVirtioIrq, true));
  return vm.SetIrqLine(layout::kFirstVirtioIrq, false);
}

Result<uint64_t> PresentBytes(std::span<const std::byte> ram) {
  VMFORK_TRY(counts, CountPages(ram));
  return counts.shared_bytes + counts.owned_bytes;
}

std::unexpected<Error> NeverRan(const char* way) {
  return Fail(ErrorCode::kTimeout, way, "the guest touched no memory in a second");
}

// The floor. Its shell's registers are the snapshot's already; what is left is what runs by itself
// or depends on memory: the memory, the clock, the timer, the MSRs of time, and the interrupt that
// tells the guest.
class Floor {
 public:
  static Result<std::unique_ptr<Floor>> Create(const Template& source) {
    StageClock clock;
    VMFORK_TRY(shell, Shell::Build(*source.engine, source.snapshot->Shape(), nullptr, clock));
    return std::unique_ptr<Floor>(new Floor(source, std::move(shell)));
  }

  // Into a recycled shell.
  Result<double> Sample() {
    VMFORK_CHECK(MakeReady());
    VMFORK_TRY(forked_ms, ForkAndRun());
    if (!shell_->Vcpus().front()->Stop())
      return Fail(ErrorCode::kGuestCrash, "floor", "the guest ended");
    shell_->Vcpus().front()->Disown();
    return forked_ms;
  }

  // What is done ahead.
  Result<void> MakeReady() {
    VMFORK_CHECK(shell_->Recycle({.cores = rest_, .image = {}, .ahead = {}}));
    shell_->Vcpus().front()->SetOwner(
        {.memory = &shell_->Memory(), .ports = &nothing_, .mmio = &nothing_, .on_end = [](Error) {
         }});
    return {};
  }

  // The guest runs on.
  Result<double> ForkAndRun() {
    VMFORK_TRY(forked_ms, Fork());
    VMFORK_CHECK(WaitUntilRun());
    // As long as a clone of the library needs for its answer: the fork after it finds the
    // processor's caches as cold.
    ::usleep(kGuestTimeUs);
    return forked_ms;
  }

 private:
  Floor(const Template& source, std::unique_ptr<Shell> shell)
      : source_(source),
        shell_(std::move(shell)),
        rest_(std::make_shared<const CoreState>(
            StateAtRest(source.snapshot->SharedState(), *shell_->Fresh()))) {}

  Result<double> Fork() {
    const MachineState& state = source_.State();
    const PrivateView& view = shell_->View();
    Vcpu& vcpu = *shell_->Vcpus().front();
    const auto start = Clock::now();
    if (::mmap(view.Data(), view.Size(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, source_.MemoryFd(), 0) == MAP_FAILED)
      return FailErrno("mmap", "guest memory");
    VMFORK_CHECK(shell_->Kvm().SetClock(state.clock));
    // KVM_SET_MSRS, and KVM_SET_LAPIC where its timer counts: all else is equal.
    VMFORK_CHECK(WriteVcpuState(vcpu.Fd(), state.vcpus.front(), rest_->to_next.vcpus.front()));
    VMFORK_CHECK(Interrupt(shell_->Kvm()));
    vcpu.Unpark();
    return MsSince(start);
  }

  Result<void> WaitUntilRun() {
    const std::span ram(shell_->View().Data(), shell_->View().Size());
    for (int i = 0; i < kRunChecks; ++i) {
      VMFORK_TRY(present, PresentBytes(ram));
      if (present != 0) return {};
      ::usleep(kRunCheckUs);
    }
    return NeverRan("floor");
  }

  const Template& source_;
  const Bus nothing_;  // the guest finds no devices
  std::unique_ptr<Shell> shell_;
  const std::shared_ptr<const CoreState> rest_;
};

// Shells that nobody has used, made ahead, one for each sample; all guests live on until the last
// one has forked, as in the benchmark of the library.
class NewShells {
 public:
  static Result<NewShells> Create(const Template& source, int count) {
    NewShells shells;
    for (int i = 0; i < count; ++i) {
      VMFORK_TRY(one, Floor::Create(source));
      VMFORK_CHECK(one->MakeReady());
      shells.waiting_.push_back(std::move(one));
    }
    return shells;
  }

  Result<double> Sample() {
    running_.push_back(std::move(waiting_.back()));
    waiting_.pop_back();
    return running_.back()->ForkAndRun();
  }

 private:
  std::vector<std::unique_ptr<Floor>> waiting_, running_;
};

// Only here to have KVM_RUN interrupted.
void OnAlarm(int) {}

Result<void> SetAlarm(suseconds_t interval_us) {
  const itimerval timer{.it_interval = {0, interval_us}, .it_value = {0, interval_us}};
  if (::setitimer(ITIMER_REAL, &timer, nullptr) != 0) return FailErrno("setitimer");
  return {};
}

// A VM that is made when it is wanted, and every piece of its state written: the naive way, in the
// order in which KVM's documentation introduces the calls, or the cheapest. Both have the parts
// that a fork needs; the cheapest has no interval timer besides, which our guests do not use.
class NewVm {
 public:
  enum class Order { kTextbook, kCheapest };

  static Result<NewVm> Create(const Template& source, Order order) {
    UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm.IsValid()) return FailErrno("open", "/dev/kvm");
    struct sigaction action{};
    action.sa_handler = OnAlarm;  // without SA_RESTART
    if (::sigaction(SIGALRM, &action, nullptr) != 0) return FailErrno("sigaction");
    return NewVm(source, order, std::move(kvm));
  }

  // From the first call to the return of a KVM_RUN with immediate_exit, the cheapest there is: it
  // loads the processor and leaves before the guest's first instruction.
  Result<double> Sample() const {
    const auto start = Clock::now();
    VMFORK_TRY(vm, CreateVm());
    VMFORK_TRY(ram, MapMemory(vm));
    // Once it is there, a new memory slot waits for a grace period of several ms.
    if (order_ == Order::kCheapest) VMFORK_CHECK(vm.CreateIrqchip());
    VMFORK_TRY(vcpu, vm.CreateVcpu(0, source_.engine->VcpuMappingSize()));
    VMFORK_CHECK(vcpu.SetCpuid(CpuidOf(source_.State().cpuid, 0)));
    VMFORK_CHECK(WriteState(vm, vcpu));
    vcpu.Run().immediate_exit = 1;
    if (const int error_number = vcpu.Enter(); error_number != EINTR)
      return FailErrno(error_number, "KVM_RUN", "immediate exit");
    const double forked_ms = MsSince(start);
    VMFORK_CHECK(Interrupt(vm));
    VMFORK_CHECK(SetAlarm(kRunCheckUs));
    auto ran = RunShortly(vcpu, std::span(ram.Data(), ram.Size()));
    VMFORK_CHECK(SetAlarm(0));
    if (!ran) return std::unexpected(std::move(ran).error());
    return forked_ms;
  }

 private:
  NewVm(const Template& source, Order order, UniqueFd kvm)
      : source_(source), order_(order), kvm_(std::move(kvm)) {}

  Result<VmFd> CreateVm() const {
    VMFORK_TRY(fd, kvm_ioctl::Call(kvm_.Get(), KVM_CREATE_VM, 0UL, "KVM_CREATE_VM"));
    VmFd vm{UniqueFd(fd)};
    if (source_.engine->VcpuFormat().has_triple_fault)  // else the events are refused
      VMFORK_CHECK(vm.EnableCapability(KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
    if (order_ == Order::kCheapest) return vm;
    VMFORK_CHECK(vm.CreateIrqchip());
    kvm_pit_config pit{};
    VMFORK_CHECK(kvm_ioctl::Call(fd, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2"));
    return vm;
  }

  Result<Mapping> MapMemory(const VmFd& vm) const {
    VMFORK_TRY(ram, Mapping::Map(source_.MemoryBytes(), PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_NORESERVE, source_.MemoryFd(), 0));
    uint32_t slot = 0;
    for (const RamRegion& region : layout::RamRegions(ram.Data(), ram.Size()))
      VMFORK_CHECK(vm.SetMemory(slot++, region.start, region.size, region.host));
    return ram;
  }

  Result<void> WriteState(const VmFd& vm, const VcpuFd& vcpu) const {
    const MachineState& state = source_.State();
    for (const kvm_irqchip& chip : state.irqchips) VMFORK_CHECK(vm.SetIrqchip(chip));
    VMFORK_CHECK(vm.SetClock(state.clock));
    const VcpuState& wanted = state.vcpus.front();
    VMFORK_CHECK(vcpu.Set(wanted.sregs));
    if (wanted.has_xcrs) VMFORK_CHECK(vcpu.Set(wanted.xcrs));
    VMFORK_CHECK(vcpu.SetXsave(wanted.xsave));
    VMFORK_CHECK(vcpu.Set(wanted.regs));
    VMFORK_CHECK(vcpu.Set(wanted.debugregs));
    VMFORK_CHECK(vcpu.Set(wanted.lapic));
    VMFORK_TRY(count, vcpu.SetMsrs(wanted.msrs));
    if (count != wanted.msrs.size())
      return Fail(ErrorCode::kSnapshotIncompatible, "KVM_SET_MSRS", std::to_string(count));
    VMFORK_CHECK(vcpu.Set(wanted.mp_state));
    return vcpu.Set(wanted.events);
  }

  // Until the guest has touched memory that nobody had touched for it. What it wants of devices
  // nobody answers.
  static Result<void> RunShortly(const VcpuFd& vcpu, std::span<const std::byte> ram) {
    VMFORK_TRY(before, PresentBytes(ram));
    vcpu.Run().immediate_exit = 0;
    for (int i = 0; i < kRunChecks; ++i) {
      if (const int error_number = vcpu.Enter(); error_number != 0 && error_number != EINTR)
        return FailErrno(error_number, "KVM_RUN", "new VM");
      VMFORK_TRY(present, PresentBytes(ram));
      if (present > before) return {};
    }
    return NeverRan("new VM");
  }

  const Template& source_;
  const Order order_;
  UniqueFd kvm_;
};

// In turn would have each naive VM's end, which the kernel works off later, in the next floor.
template <typename Way>
Result<std::vector<double>> Samples(Way& way, int count) {
  std::vector<double> samples;
  for (int i = -kWarmUpRounds; i < count; ++i) {
    VMFORK_TRY(forked_ms, way.Sample());
    if (i >= 0) samples.push_back(forked_ms);
  }
  return samples;
}

void Print(const char* name, const std::vector<double>& samples) {
  std::printf("\"%s\":[", name);
  for (size_t i = 0; i < samples.size(); ++i) std::printf("%s%.6f", i == 0 ? "" : ",", samples[i]);
  std::printf("]");
}

Result<void> Measure(const std::string& directory, int count) {
  VMFORK_TRY(source, Open(directory));
  VMFORK_TRY(floor, Floor::Create(source));
  VMFORK_TRY(floor_ms, Samples(*floor, count));
  VMFORK_TRY(shells, NewShells::Create(source, kWarmUpRounds + count));
  VMFORK_TRY(new_floor_ms, Samples(shells, count));
  VMFORK_TRY(cheapest, NewVm::Create(source, NewVm::Order::kCheapest));
  VMFORK_TRY(cold_floor_ms, Samples(cheapest, count));
  VMFORK_TRY(naive, NewVm::Create(source, NewVm::Order::kTextbook));
  VMFORK_TRY(naive_ms, Samples(naive, count));
  std::printf("{");
  Print("floor_ms", floor_ms);
  std::printf(",");
  Print("new_floor_ms", new_floor_ms);
  std::printf(",");
  Print("cold_floor_ms", cold_floor_ms);
  std::printf(",");
  Print("naive_ms", naive_ms);
  std::printf("}\n");
  return {};
}

}  // namespace
}  // namespace vmfork

int main(int argc, char** argv) {
  int count = 0;
  const std::string_view text(argc == 3 ? argv[2] : "");
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || end != text.data() + text.size() || count < 1 ||
      count > vmfork::kMaxSamples) {
    std::fputs("usage: fork_floor DIRECTORY N\n", stderr);
    return 2;
  }
  if (auto measured = vmfork::Measure(argv[1], count); !measured) {
    std::fprintf(stderr, "fork_floor: %s\n", measured.error().ToString().c_str());
    return 1;
  }
  return 0;
}
