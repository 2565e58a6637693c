// A machine's state with something in every part of it.
#pragma once

#include "snapshot/machine_state.h"

namespace vmfork {

inline MachineState SampleState() {
  MachineState state;
  state.config = {.memory_bytes = 64 << 20, .vcpus = 2, .cid = 7, .disks = {}, .media = {}};
  state.host_kind = HostKind::kPvm;
  state.cpu_vendor = "AuthenticAMD";
  state.tsc_khz = 2'600'000;
  state.cpuid.resize(3);
  state.cpuid[1].function = 7;
  state.vcpus.resize(2);
  for (VcpuState& vcpu : state.vcpus) {
    vcpu.xsave.resize(kXsaveBytes);
    vcpu.msrs.push_back({.index = 0x10, .reserved = 0, .data = 99});
  }
  state.vcpus[1].regs.rip = 0x1234;
  state.clock.clock = 5;
  state.devices.push_back({"serial", std::vector<std::byte>(9)});
  return state;
}

}  // namespace vmfork
