// vmfork: boot a Linux guest on KVM once, then fork it. This is the whole public surface.

export { ERROR_CODES, type ErrorCode, VmforkError } from './errors.js';
export { Command, type ExitStatus } from './exec/command.js';
export type { ExecResult } from './exec/exec.js';
export type { AgentInfo } from './exec/messages.js';
export { ConnectionListener } from './exec/sockets.js';
export { Tunnel } from './exec/tunnel.js';
export { GuestConsole } from './kvm/console.js';
export { Engine, probeHost } from './kvm/engine.js';
export { buildGuest, findGuest, type Guest } from './kvm/guest.js';
export type { Identity } from './kvm/identity.js';
export { TRANSITIONS, type VmState } from './kvm/lifecycle.js';
export type { SnapshotMetadata } from './kvm/metadata.js';
export { Clone, Snapshot } from './kvm/snapshot.js';
export { Template } from './kvm/template.js';
export { type Timing, Vm } from './kvm/vm.js';
export { type ProcessMemory, processMemory } from './memshare/accounting.js';
export { type Limit, type ProcessLimits, processLimits } from './memshare/limits.js';
export type {
  HostKind,
  NativeHostInfo as HostInfo,
  NativeMemory as VmMemory,
  NativeSnapshotInfo as SnapshotInfo,
} from './native.js';
export type {
  BootOptions,
  ConnectTcpOptions,
  ExecOptions,
  ForkOptions,
  ForkPayload,
  ForkPointOptions,
  ReadFileOptions,
  SpawnOptions,
  WriteFileOptions,
} from './options.js';
export { VERSION } from './version.js';
export type { WaitOptions } from './waiting.js';
