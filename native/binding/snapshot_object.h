// NativeSnapshot (src/native.ts): a frozen VM in JavaScript's hands.
#pragma once

#include <napi.h>

#include <memory>

#include "binding/engine_handle.h"
#include "binding/env_data.h"

namespace vmfork {

class SnapshotObject {
 public:
  static constexpr char kName[] = "NativeSnapshot";
  static constexpr napi_type_tag kTag = {0x2b7e91d04f3a4c86, 0xb35a0c8d61e2f794};
  static constexpr auto kClass = &EnvData::snapshot_class;

  static void Define(Napi::Env env);
  static Napi::Value Make(Napi::Env env, std::shared_ptr<EngineLease> lease,
                          std::shared_ptr<Snapshot> snapshot);

  SnapshotObject(std::shared_ptr<EngineLease> lease, std::shared_ptr<Snapshot> snapshot)
      : lease_(std::move(lease)),
        id_(lease_->Handle()->NewSnapshotId()),
        snapshot_(std::move(snapshot)) {}
  ~SnapshotObject() { Drop(); }
  SnapshotObject(const SnapshotObject&) = delete;
  SnapshotObject& operator=(const SnapshotObject&) = delete;

 private:
  using Info = Napi::CallbackInfo;

  Napi::Value Id(const Info& info);
  Napi::Value GetInfo(const Info& info);
  Napi::Value Fork(const Info& info);
  Napi::Value TryFork(const Info& info);
  Napi::Value FillShells(const Info& info);
  Napi::Value Save(const Info& info);
  Napi::Value Verify(const Info& info);
  Napi::Value RecordWorkingSet(const Info& info);
  Napi::Value Metadata(const Info& info);
  Napi::Value Close(const Info& info);

  const std::shared_ptr<Snapshot>& Open(Napi::Env env) const;
  void Drop();

  const std::shared_ptr<EngineLease> lease_;
  const uint32_t id_;
  std::shared_ptr<Snapshot> snapshot_;  // null: closed
};

}  // namespace vmfork
