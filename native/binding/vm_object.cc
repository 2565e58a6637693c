// The methods of NativeVm.
#include "binding/vm_object.h"

#include <cstring>
#include <optional>
#include <utility>

#include "binding/arguments.h"
#include "binding/native_object.h"
#include "binding/promise_job.h"
#include "binding/snapshot_object.h"

namespace vmfork {

namespace {

constexpr Range kDrives = {0, kMediaSlots - 1};
constexpr Range kSampleCounts = {1, 1'000'000};
constexpr Range kSampleIntervalsUs = {0, 1'000'000};

Napi::Value FdToJs(Napi::Env env, const UniqueFd& fd) { return Napi::Number::New(env, fd.Get()); }

Napi::Value MemoryToJs(Napi::Env env, const MemoryUse& use) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("residentBytes", static_cast<double>(use.resident));
  object.Set("sharedBytes", static_cast<double>(use.shared));
  object.Set("privateBytes", static_cast<double>(use.owned));
  return object;
}

Napi::Value StagesToJs(Napi::Env env, const std::vector<Stage>& list) {
  Napi::Array stages = Napi::Array::New(env, list.size());
  uint32_t index = 0;
  for (const Stage& stage : list) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", stage.name);
    object.Set("ns", static_cast<double>(stage.nanoseconds));
    stages.Set(index++, object);
  }
  return stages;
}

Napi::Value SamplesToJs(Napi::Env env, const std::vector<uint64_t>& samples) {
  auto array = Napi::BigUint64Array::New(env, samples.size());
  std::memcpy(array.Data(), samples.data(), samples.size() * sizeof(uint64_t));
  return array;
}

// Pairs of offset and length, bytes.
Napi::Value RangesToJs(Napi::Env env, const std::vector<PageRun>& runs) {
  auto array = Napi::BigUint64Array::New(env, runs.size() * 2);
  for (size_t i = 0; i < runs.size(); ++i) {
    array[2 * i] = runs[i].start;
    array[2 * i + 1] = runs[i].size;
  }
  return array;
}

Napi::Value DifferenceToJs(Napi::Env env, const MemoryDifference& difference) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("here", RangesToJs(env, difference.here));
  object.Set("there", RangesToJs(env, difference.there));
  object.Set("frozen", RangesToJs(env, difference.frozen));
  return object;
}

}  // namespace

void VmObject::Define(Napi::Env env) {
  DefineClass<VmObject>(env, {GetterOf<VmObject, &VmObject::Id>("id"),
                              MethodOf<VmObject, &VmObject::TakeControlFd>("takeControlFd"),
                              MethodOf<VmObject, &VmObject::Stages>("stages"),
                              MethodOf<VmObject, &VmObject::Pause>("pause"),
                              MethodOf<VmObject, &VmObject::Resume>("resume"),
                              MethodOf<VmObject, &VmObject::TakeSnapshot>("snapshot"),
                              MethodOf<VmObject, &VmObject::AttachDisk>("attachDisk"),
                              MethodOf<VmObject, &VmObject::DetachDisk>("detachDisk"),
                              MethodOf<VmObject, &VmObject::Connect>("connect"),
                              MethodOf<VmObject, &VmObject::Listen>("listen"),
                              MethodOf<VmObject, &VmObject::Unlisten>("unlisten"),
                              MethodOf<VmObject, &VmObject::WatchConsole>("watchConsole"),
                              MethodOf<VmObject, &VmObject::ConsoleTail>("consoleTail"),
                              MethodOf<VmObject, &VmObject::Memory>("memory"),
                              MethodOf<VmObject, &VmObject::Compare>("compare"),
                              MethodOf<VmObject, &VmObject::TouchedRanges>("touchedRanges"),
                              MethodOf<VmObject, &VmObject::Reset>("reset"),
                              MethodOf<VmObject, &VmObject::TryReset>("tryReset"),
                              MethodOf<VmObject, &VmObject::Started>("started"),
                              MethodOf<VmObject, &VmObject::SampleRip>("sampleRip"),
                              MethodOf<VmObject, &VmObject::Destroy>("destroy")});
}

Napi::Value VmObject::Make(Napi::Env env, std::shared_ptr<EngineLease> lease,
                           std::shared_ptr<VmRecord> record) {
  MakeAhead(env);
  auto& spare = EnvData::Of(env).spare_vm;
  const Napi::Object object = spare.object.Value();
  VmObject& vm = *std::exchange(spare.native, nullptr);
  spare.object.Reset();
  vm.lease_ = std::move(lease);
  vm.record_ = std::move(record);
  vm.record_->events->Open();
  return object;
}

void VmObject::MakeAhead(Napi::Env env) {
  auto& spare = EnvData::Of(env).spare_vm;
  if (spare.native != nullptr) return;
  auto native = std::make_unique<VmObject>();
  VmObject* const vm = native.get();
  spare.object = Napi::Persistent(NewObject(env, std::move(native)));
  spare.native = vm;
}

VmObject::~VmObject() {
  if (record_ == nullptr) return;
  record_->events->Mute();
  if (!record_->Get()) return;
  const auto& engine = lease_->Handle();
  // Refused when the engine closes: then that destroys the VM.
  engine->Submit([engine, record = record_] { engine->Destroy(*record); }, Lane::kTeardown);
}

template <typename Work, typename... ToJs>
Napi::Value VmObject::RunWithVm(const Info& info, Work work, ToJs... to_js) {
  using R = std::invoke_result_t<Work&, Vm&>;
  auto with_vm = [record = record_, work = std::move(work)]() mutable -> R {
    auto vm = record->Get();
    if (!vm) return std::unexpected(std::move(vm).error());
    return work(**vm);
  };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(with_vm),
                std::move(to_js)...);
}

Napi::Value VmObject::Id(const Info& info) { return Napi::Number::New(info.Env(), record_->id); }

Napi::Value VmObject::TakeControlFd(const Info& info) {
  const auto vm = OrThrow(info.Env(), record_->Get());
  UniqueFd fd = OrThrow(info.Env(), vm->TakeControl());
  return Napi::Number::New(info.Env(), fd.Release());
}

Napi::Value VmObject::Stages(const Info& info) { return StagesToJs(info.Env(), record_->Stages()); }

Napi::Value VmObject::Pause(const Info& info) {
  return RunWithVm(info, [](Vm& vm) { return vm.Pause(); });
}

Napi::Value VmObject::Resume(const Info& info) {
  return RunWithVm(info, [](Vm& vm) { return vm.Resume(); });
}

Napi::Value VmObject::TakeSnapshot(const Info& info) {
  return RunWithVm(
      info, [](Vm& vm) { return vm.Freeze(); },
      [lease = lease_](Napi::Env env, std::shared_ptr<Snapshot>& snapshot) {
        return SnapshotObject::Make(env, lease, std::move(snapshot));
      });
}

Napi::Value VmObject::AttachDisk(const Info& info) {
  const size_t drive = ToInteger(info[0], "drive", kDrives);
  return RunWithVm(info, [drive, options = ToDiskOptions(info[1])](Vm& vm) {
    return vm.AttachDisk(drive, options);
  });
}

Napi::Value VmObject::DetachDisk(const Info& info) {
  const size_t drive = ToInteger(info[0], "drive", kDrives);
  return RunWithVm(info, [drive](Vm& vm) { return vm.DetachDisk(drive); });
}

// The answer comes from a device's thread, any time later; the request is a job because it may wait
// for a snapshot in progress.
Napi::Value VmObject::Connect(const Info& info) {
  const uint32_t port = ToPort(info[0]);
  const Napi::Env env = info.Env();
  const std::shared_ptr<EventPump>& pump = lease_->Handle()->Pump();
  const auto [id, promise] = pump->AddPromise(env, info.This().As<Napi::Object>());
  const auto answer = [pump, id](Result<UniqueFd> fd) {
    pump->Post(SettleTask<UniqueFd>(id, std::move(fd), FdToJs));
  };
  const bool accepted = lease_->Handle()->Submit([record = record_, port, answer] {
    auto vm = record->Get();
    if (!vm) return answer(std::unexpected(std::move(vm).error()));
    (*vm)->Connect(port, answer);
  });
  if (!accepted) RejectClosed(env, *pump, id);
  return promise;
}

Napi::Value VmObject::Listen(const Info& info) {
  const uint32_t port = ToPort(info[0]);
  const auto vm = OrThrow(info.Env(), record_->Get());
  OrThrow(info.Env(), vm->Listen(port));
  return info.Env().Undefined();
}

Napi::Value VmObject::Unlisten(const Info& info) {
  const uint32_t port = ToPort(info[0]);
  if (const auto vm = record_->Get()) (*vm)->Unlisten(port);
  return info.Env().Undefined();
}

Napi::Value VmObject::WatchConsole(const Info& info) {
  const bool on = ToBoolean(info[0], "on");
  if (const auto vm = record_->Get()) (*vm)->WatchConsole(on);
  return info.Env().Undefined();
}

Napi::Value VmObject::ConsoleTail(const Info& info) {
  const std::string tail = record_->ConsoleTail();
  auto array = Napi::Uint8Array::New(info.Env(), tail.size());
  std::memcpy(array.Data(), tail.data(), tail.size());
  return array;
}

Napi::Value VmObject::Memory(const Info& info) {
  return RunWithVm(info, [](Vm& vm) { return vm.Memory(); }, MemoryToJs);
}

Napi::Value VmObject::Compare(const Info& info) {
  auto work = [other = UnwrapValue<VmObject>(info[0], "other").record_](
                  Vm& vm) -> Result<MemoryDifference> {
    auto other_vm = other->Get();
    if (!other_vm) return std::unexpected(std::move(other_vm).error());
    return Vm::Compare(vm, **other_vm);
  };
  return RunWithVm(info, std::move(work), DifferenceToJs);
}

Napi::Value VmObject::Reset(const Info& info) {
  return RunWithVm(info, [options = ToForkOptions(info)](Vm& vm) { return vm.Reset(options); });
}

// Here and now, as NativeSnapshot.tryFork().
Napi::Value VmObject::TryReset(const Info& info) {
  const Napi::Env env = info.Env();
  const ForkOptions options = ToForkOptions(info);
  const Napi::Function on_running = ToFunction(info[3], "onRunning");
  const auto vm = OrThrow(env, record_->Get());
  std::optional<Napi::Error> thrown;  // kept out of the core, which has yet to end what was before
  const auto call = [&on_running, &thrown] {
    try {
      on_running.Call({});
    } catch (const Napi::Error& error) {
      thrown = error;
    }
  };
  const bool done = OrThrow(env, lease_->Handle()->TryReset(*vm, options, call));
  if (thrown) throw *thrown;
  return Napi::Boolean::New(env, done);
}

Napi::Value VmObject::TouchedRanges(const Info& info) {
  return RunWithVm(info, [](Vm& vm) { return vm.TouchedPages(); }, RangesToJs);
}

Napi::Value VmObject::Started(const Info& info) {
  const auto vm = record_->Get();
  // Refused when the engine closes: then there is nobody to learn for.
  if (vm && (*vm)->NoteStarted()) lease_->Handle()->Submit([vm = *vm] { vm->LearnStart(); });
  return info.Env().Undefined();
}

Napi::Value VmObject::SampleRip(const Info& info) {
  const auto count = static_cast<uint32_t>(ToInteger(info[0], "count", kSampleCounts));
  const auto interval_us =
      static_cast<uint32_t>(ToInteger(info[1], "intervalUs", kSampleIntervalsUs));
  return RunWithVm(
      info, [count, interval_us](Vm& vm) { return vm.SampleRip(count, interval_us); }, SamplesToJs);
}

Napi::Value VmObject::Destroy(const Info& info) {
  record_->events->Mute();
  if (const auto vm = record_->Get()) (*vm)->RequestStop();
  const auto& engine = lease_->Handle();
  const auto receiver = info.This().As<Napi::Object>();
  if (engine->IsClosing()) return engine->Close(receiver);  // that destroys it
  return RunJob(
      engine, receiver,
      [engine, record = record_]() -> Result<void> {
        engine->Destroy(*record);
        return {};
      },
      NoValue{}, Lane::kTeardown);
}

}  // namespace vmfork
