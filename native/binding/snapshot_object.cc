// The methods of NativeSnapshot.
#include "binding/snapshot_object.h"

#include <utility>

#include "binding/arguments.h"
#include "binding/host_info.h"
#include "binding/native_object.h"
#include "binding/promise_job.h"
#include "binding/vm_object.h"

namespace vmfork {

namespace {

constexpr Range kShellCounts = {0, 1u << 16};
constexpr Range kPositions = {0, uint64_t{1} << 52};

Napi::Value ReportForJs(Napi::Env env, SaveReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", report.id);
  object.Set("layers", static_cast<double>(report.layers));
  object.Set("memoryBytes", static_cast<double>(report.memory_bytes));
  return object;
}

Napi::Value PartForJs(Napi::Env env, VerifiedPart& part) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("next", static_cast<double>(part.next));
  object.Set("end", static_cast<double>(part.end));
  object.Set("readBytes", static_cast<double>(part.read_bytes));
  return object;
}

}  // namespace

void SnapshotObject::Define(Napi::Env env) {
  DefineClass<SnapshotObject>(
      env, {GetterOf<SnapshotObject, &SnapshotObject::Id>("id"),
            MethodOf<SnapshotObject, &SnapshotObject::GetInfo>("info"),
            MethodOf<SnapshotObject, &SnapshotObject::Fork>("fork"),
            MethodOf<SnapshotObject, &SnapshotObject::TryFork>("tryFork"),
            MethodOf<SnapshotObject, &SnapshotObject::FillShells>("fillShells"),
            MethodOf<SnapshotObject, &SnapshotObject::Save>("save"),
            MethodOf<SnapshotObject, &SnapshotObject::Verify>("verify"),
            MethodOf<SnapshotObject, &SnapshotObject::RecordWorkingSet>("recordWorkingSet"),
            MethodOf<SnapshotObject, &SnapshotObject::Metadata>("metadata"),
            MethodOf<SnapshotObject, &SnapshotObject::Close>("close")});
}

Napi::Value SnapshotObject::Make(Napi::Env env, std::shared_ptr<EngineLease> lease,
                                 std::shared_ptr<Snapshot> snapshot) {
  return NewObject(env, std::make_unique<SnapshotObject>(std::move(lease), std::move(snapshot)));
}

const std::shared_ptr<Snapshot>& SnapshotObject::Open(Napi::Env env) const {
  if (snapshot_ == nullptr)
    throw ToJsError(env, {ErrorCode::kState, "snapshot", 0, "it is closed"});
  return snapshot_;
}

Napi::Value SnapshotObject::Id(const Info& info) { return Napi::Number::New(info.Env(), id_); }

Napi::Value SnapshotObject::GetInfo(const Info& info) {
  const Snapshot& snapshot = *Open(info.Env());
  const MachineState& state = snapshot.State();
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("memoryBytes", static_cast<double>(state.config.memory_bytes));
  object.Set("vcpus", Napi::Number::New(info.Env(), state.config.vcpus));
  uint64_t image_bytes = 0;
  for (const Extent& extent : snapshot.GetImage()->Extents()) image_bytes += extent.size;
  object.Set("imageBytes", static_cast<double>(image_bytes));
  object.Set("extents", static_cast<double>(snapshot.GetImage()->Extents().size()));
  object.Set("stateBytes",
             static_cast<double>(EncodeMachineState(state, snapshot.Metadata()).size()));
  object.Set("pauseNs", static_cast<double>(snapshot.Pause().count()));
  object.Set("hostKind", HostKindName(state.host_kind));
  return object;
}

Napi::Value SnapshotObject::Fork(const Info& info) {
  auto work = [engine = lease_->Handle(), snapshot = Open(info.Env()),
               options = ToForkOptions(info)] { return engine->Fork(snapshot, options); };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work),
                [lease = lease_](Napi::Env env, std::shared_ptr<VmRecord>& record) {
                  return VmObject::Make(env, lease, std::move(record));
                });
}

// Here and now: with a shell at hand a fork takes less time than the way to a worker and back.
Napi::Value SnapshotObject::TryFork(const Info& info) {
  const Napi::Env env = info.Env();
  auto record = OrThrow(env, lease_->Handle()->TryFork(Open(env), ToForkOptions(info)));
  return record == nullptr ? env.Null() : VmObject::Make(env, lease_, std::move(record));
}

Napi::Value SnapshotObject::FillShells(const Info& info) {
  auto work = [engine = lease_->Handle(), snapshot = Open(info.Env()),
               count = ToInteger(info[0], "count", kShellCounts)] {
    return engine->FillShells(*snapshot, count);
  };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work));
}

Napi::Value SnapshotObject::Save(const Info& info) {
  SaveOptions options = ToSaveOptions(info[1]);
  const Napi::Value base = info[1].As<Napi::Object>().Get("base");
  if (!base.IsNull()) options.base = UnwrapValue<SnapshotObject>(base, "base").Open(info.Env());
  auto work = [snapshot = Open(info.Env()), directory = ToPath(info[0], "directory"),
               options = std::move(options)] { return snapshot->Save(directory, options); };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work), ReportForJs);
}

Napi::Value SnapshotObject::Verify(const Info& info) {
  const bool in_passing = ToBoolean(info[1], "inPassing");
  auto work = [snapshot = Open(info.Env()), position = ToInteger(info[0], "position", kPositions),
               mode = in_passing ? VerifyMode::kInPassing : VerifyMode::kAwaited] {
    return snapshot->Verify(position, mode);
  };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work), PartForJs,
                in_passing ? Lane::kScrub : Lane::kWork);
}

Napi::Value SnapshotObject::RecordWorkingSet(const Info& info) {
  auto work = [snapshot = Open(info.Env()), runs = ToPageRuns(info[0], "ranges")] {
    return snapshot->RecordWorkingSet(runs);
  };
  return RunJob(lease_->Handle(), info.This().As<Napi::Object>(), std::move(work));
}

Napi::Value SnapshotObject::Metadata(const Info& info) {
  return Napi::String::New(info.Env(), Open(info.Env())->Metadata());
}

Napi::Value SnapshotObject::Close(const Info& info) {
  Drop();
  return info.Env().Undefined();
}

// On a worker: unmapping, and freeing the pages of a memfd, take time. When the engine is closed
// the share goes here and now.
void SnapshotObject::Drop() {
  if (snapshot_ == nullptr) return;
  lease_->Handle()->Submit([snapshot = std::exchange(snapshot_, nullptr)] {});
}

}  // namespace vmfork
