// vmfork: boot a Linux guest on KVM once, then fork it. This is the whole public surface.

export type { ByteString } from './byte-string.js';
export type { AttachOptions, Rootfs } from './container/attach.js';
export { Container, type ContainerExit } from './container/container.js';
export type { RunConfig } from './container/merge-config.js';
export type { StreamOptions } from './container/process.js';
export type { RlimitValue } from './container/rlimits.js';
export type { RunOptions, RunResult, StartOptions } from './container/runtime.js';
export type { ContainerOptions } from './container/spec.js';
export { ERROR_CODES, type ErrorCode, VmforkError } from './errors.js';
export { Command, type ExitStatus } from './exec/command.js';
export type { ExecResult } from './exec/exec.js';
export type { AgentInfo } from './exec/messages.js';
export { ConnectionListener } from './exec/sockets.js';
export { Tunnel } from './exec/tunnel.js';
export { Clone } from './kvm/clone.js';
export { GuestConsole } from './kvm/console.js';
export type {
  DiffOptions,
  FileDifference,
  PageDifference,
  PageRange,
  VmDifference,
} from './kvm/diff.js';
export { Engine, probeHost } from './kvm/engine.js';
export type { EngineOptions, ShellOptions } from './kvm/engine-options.js';
export { buildGuest, findGuest, type Guest } from './kvm/guest.js';
export type { Identity } from './kvm/identity.js';
export type { ScrubOptions, ScrubProgress } from './kvm/integrity.js';
export { TRANSITIONS, type VmState } from './kvm/lifecycle.js';
export type { SnapshotMetadata } from './kvm/metadata.js';
export type { RaceOptions, Runner } from './kvm/race.js';
export type { LoadOptions, SavedSnapshot, SaveOptions } from './kvm/saved-snapshot.js';
export { CloneScope, type ScopeMember } from './kvm/scope.js';
export { Snapshot } from './kvm/snapshot.js';
export type { Timing } from './kvm/stage-clock.js';
export { Template } from './kvm/template.js';
export { Vm } from './kvm/vm.js';
export { type ProcessMemory, processMemory } from './memshare/accounting.js';
export type { BudgetState, OnBudget } from './memshare/budget.js';
export { type Limit, type ProcessLimits, processLimits } from './memshare/limits.js';
export type {
  HostKind,
  NativeHostInfo as HostInfo,
  NativeMemory as VmMemory,
  NativeShellCounts as ShellCounts,
  NativeSnapshotInfo as SnapshotInfo,
} from './native.js';
export type { Credentials } from './oci/credentials.js';
export type { Garbage } from './oci/garbage.js';
export { type ImageLayer, StoredImage } from './oci/image.js';
export {
  BUILT_IN_IMAGE,
  findImage,
  type PreparedRootfs,
  type PrepareRootfsOptions,
  prepareRootfs,
} from './oci/prepare.js';
export type { ImageProgress } from './oci/progress.js';
export { ImageReference, parseReference } from './oci/reference.js';
export {
  type BuildRootfsOptions,
  buildRootfs,
  type LayerSource,
  type RootfsInfo,
  type RootfsLimits,
  type RootfsProgress,
} from './oci/rootfs/index.js';
export type { ContainerConfig, ImageConfig } from './oci/schemas.js';
export {
  ImageStore,
  type ImageStoreOptions,
  type ImportOptions,
  type PullOptions,
} from './oci/store.js';
export type {
  BootOptions,
  ConnectTcpOptions,
  ExecOptions,
  ForkOptions,
  ForkPayload,
  ForkPointOptions,
  ReadFileOptions,
  ResetOptions,
  SnapshotOptions,
  SpawnOptions,
  WriteFileOptions,
} from './options.js';
export { VERSION } from './version.js';
export type { WaitOptions } from './waiting.js';
