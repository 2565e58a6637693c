// NativeVm (src/native.ts): one VM in JavaScript's hands. Collected without destroy(), it destroys
// the VM.
#pragma once

#include <napi.h>

#include <memory>

#include "binding/engine_handle.h"
#include "binding/env_data.h"

namespace vmfork {

class VmObject {
 public:
  static constexpr char kName[] = "NativeVm";
  static constexpr napi_type_tag kTag = {0x9f5d3c1e7a604b28, 0x8e1b6d2f4c97a053};
  static constexpr auto kClass = &EnvData::vm_class;

  static void Define(Napi::Env env);
  // Events of the VM flow from here on.
  static Napi::Value Make(Napi::Env env, std::shared_ptr<EngineLease> lease,
                          std::shared_ptr<VmRecord> record);
  // Has the next Make() find its object there: making one takes a tenth of a fork's time.
  static void MakeAhead(Napi::Env env);

  VmObject() = default;
  ~VmObject();
  VmObject(const VmObject&) = delete;
  VmObject& operator=(const VmObject&) = delete;

 private:
  using Info = Napi::CallbackInfo;

  Napi::Value Id(const Info& info);
  Napi::Value TakeControlFd(const Info& info);
  Napi::Value Stages(const Info& info);
  Napi::Value Pause(const Info& info);
  Napi::Value Resume(const Info& info);
  Napi::Value TakeSnapshot(const Info& info);
  Napi::Value AttachDisk(const Info& info);
  Napi::Value DetachDisk(const Info& info);
  Napi::Value Connect(const Info& info);
  Napi::Value Listen(const Info& info);
  Napi::Value Unlisten(const Info& info);
  Napi::Value WatchConsole(const Info& info);
  Napi::Value ConsoleTail(const Info& info);
  Napi::Value Memory(const Info& info);
  Napi::Value Compare(const Info& info);
  Napi::Value TouchedRanges(const Info& info);
  Napi::Value Reset(const Info& info);
  Napi::Value TryReset(const Info& info);
  Napi::Value Started(const Info& info);
  Napi::Value SampleRip(const Info& info);
  Napi::Value Destroy(const Info& info);

  // RunJob() with the VM, or kGone.
  template <typename Work, typename... ToJs>
  Napi::Value RunWithVm(const Info& info, Work work, ToJs... to_js);

  // Null only until Make() hands it out.
  std::shared_ptr<EngineLease> lease_;
  std::shared_ptr<VmRecord> record_;
};

}  // namespace vmfork
