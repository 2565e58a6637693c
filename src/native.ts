// Finds, loads and types the native addon: the only file that knows how.
//
// Everything below this border is bytes, numbers and handles. Options are validated in options.ts before they get here; the addon
// checks only what memory safety needs. Every method that can take longer than half a millisecond returns a Promise.

import { statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VmforkError } from './errors.js';

/** What kind of processor virtualization `/dev/kvm` offers. */
export type HostKind = 'hardware' | 'pvm';

/** Facts about the host, from `/dev/kvm` and `/sys/module`. */
export interface NativeHostInfo {
  kind: HostKind;
  apiVersion: number;
  /** CPU vendor string of CPUID leaf 0, e.g. `AuthenticAMD`. */
  cpuVendor: string;
  /** KVM capabilities the engine asks for, by kernel name without `KVM_CAP_`, and their values (0 = absent). */
  capabilities: Record<string, number>;
  /** Capabilities among those that the engine cannot work without and that are absent. */
  missing: string[];
  maxVcpus: number;
}

export interface NativeBootOptions {
  kernelPath: string;
  initrdPath: string | null;
  /** Read-only disks, shown to the guest as /dev/vda, /dev/vdb, … */
  diskPaths: string[];
  cmdline: string;
  memoryBytes: number;
  vcpus: number;
  cid: number;
  /** Most bytes of console output kept (the newest). */
  consoleBytes: number;
}

/**
 * Not an object, which takes longer to read. `controlBytes` are put into the control channel before the clone's first
 * instruction: the RESUME frame and what follows it.
 */
export type NativeForkOptions = [cid: number, controlBytes: Uint8Array, consoleBytes: number];

/** A disk for one of a VM's two drives: 0 is read-only, 1 is not. */
export interface NativeDiskOptions {
  /** What `path` is: only read, which is all that drive 0 takes, or written to, or what a scratch disk holds at first. */
  kind: 'image' | 'file' | 'scratch';
  /** A regular file or block device; of a scratch disk nobody else may use it from then on. Null: an empty one, sparse. */
  path: string | null;
  /** Size of an empty scratch disk, a multiple of 512; 0 with `path`. */
  scratchBytes: number;
  /** What the guest reads as the disk's serial number; at most 20 bytes of it count. */
  serial: string;
}

/** Nanoseconds per stage, in the order they ran. */
export interface NativeStage {
  name: string;
  ns: number;
}

/** Exact page accounting from the kernel, bytes. */
export interface NativeMemory {
  /** Guest memory present in the host's page tables for this VM. */
  residentBytes: number;
  /** Resident pages that still are the image's. */
  sharedBytes: number;
  /** Pages this VM owns alone: written since boot or fork. */
  privateBytes: number;
}

/** Each as pairs of offset and length, bytes, sorted; see `PageDifference`. */
export interface NativeMemoryDifference {
  /** What the one owns. */
  here: BigUint64Array;
  /** What the other one owns. */
  there: BigUint64Array;
  /** Where that which they own pages over differs in its content. */
  frozen: BigUint64Array;
}

export type NativeEvent =
  /** The VM ended by itself; `code` is a `VMF_…` error code, `machine` counts its resets up to then. */
  | { kind: 'exit'; vm: number; machine: number; code: string; message: string }
  /** The guest dialled a port somebody listens on; `fd` is now the receiver's. */
  | { kind: 'connection'; vm: number; port: number; guestPort: number; fd: number }
  /** New console bytes. */
  | { kind: 'console'; vm: number; bytes: Uint8Array };

export interface NativeVm {
  /** Number that events carry. */
  readonly id: number;
  /** Hands over a clone's end of the control channel: an fd of a Unix stream socket, once. A booted VM's arrives as a `connection` event with port 1024. */
  takeControlFd(): number;
  /** Stages of the boot, the fork, or the newest reset; none once it is destroyed. */
  stages(): NativeStage[];
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Freezes the VM: one that runs is paused for only as long as that takes. */
  snapshot(): Promise<NativeSnapshot>;
  /**
   * Puts a disk into a drive; resolves when the guest has been interrupted, which then finds the new size in its own time.
   * Fails with `VMF_DISK`: the drive is in use or read-only, or the file will not do.
   */
  attachDisk(drive: number, options: NativeDiskOptions): Promise<void>;
  /** Finishes requests under way and leaves the drive empty. Fails with `VMF_DISK` when it is empty already. */
  detachDisk(drive: number): Promise<void>;
  /** Dials a port of the guest; resolves with an fd of a connected Unix stream socket. */
  connect(port: number): Promise<number>;
  listen(port: number): void;
  unlisten(port: number): void;
  /** Starts or stops `console` events. */
  watchConsole(on: boolean): void;
  /** The newest console output, at most `consoleBytes`. */
  consoleTail(): Uint8Array;
  memory(): Promise<NativeMemory>;
  /** In which pages two VMs may differ. Fails with `VMF_STATE` when they have different sizes of memory. */
  compare(other: NativeVm): Promise<NativeMemoryDifference>;
  /** The same for all guest memory that it has touched; where the host maps neighbours of a page that is read, they count. */
  touchedRanges(): Promise<BigUint64Array>;
  /**
   * Back to the moment of the fork, with a new identity, and running: every connection is closed, listeners and disks
   * attached since are gone, and `takeControlFd()` gives the new control channel.
   */
  reset(...options: NativeForkOptions): Promise<void>;
  /**
   * The same here and now; false, and nothing done, when that would block. `onRunning` is called as soon as it runs, before
   * what was there before is told to stop.
   */
  tryReset(...options: [...NativeForkOptions, onRunning: () => void]): boolean;
  /** Its guest is up: what it has written by now, later clones of its snapshot may find copied already. */
  started(): void;
  /** A few thousand RIP samples of vCPU 0 for boot profiling (developer tool). */
  sampleRip(count: number, intervalUs: number): Promise<BigUint64Array>;
  /** Ends the VM; resolves when its threads are gone and its memory is unmapped. Idempotent. */
  destroy(): Promise<void>;
}

export interface NativeSnapshotInfo {
  memoryBytes: number;
  vcpus: number;
  /** Bytes the image's own layer holds. */
  imageBytes: number;
  extents: number;
  stateBytes: number;
  /** How long the source stood still; 0 for a loaded snapshot. */
  pauseNs: number;
  hostKind: HostKind;
}

export interface NativeSaveOptions {
  /** Opaque UTF-8 kept beside the state. */
  metadata: string;
  /** What only the difference to is written: a snapshot that is on disk, or its directory; at most one of them. */
  base: NativeSnapshot | null;
  baseDirectory: string | null;
  /** Key of the authentication. */
  key: Uint8Array | null;
}

export interface NativeSaveReport {
  /** Identity of what was saved: the SHA-256 of its manifest, which covers everything in it, and its bases by their own. */
  id: string;
  /** Directories that it consists of: 1, or more with a base. */
  layers: number;
  /** Bytes of guest memory that were written; zeros are not. */
  memoryBytes: number;
}

export interface NativeLoadOptions {
  key: Uint8Array | null;
  /** Has the recorded working set read ahead. */
  prefetch: boolean;
}

export interface NativeVerifiedPart {
  /** Position of the next part, 0 after the last. */
  next: number;
  /** Position at which there is no more. */
  end: number;
  /** What was read of files; holes are not. */
  readBytes: number;
}

export interface NativeSnapshot {
  readonly id: number;
  info(): NativeSnapshotInfo;
  fork(...options: NativeForkOptions): Promise<NativeVm>;
  /** The same at once, where that takes no longer than the way to a worker and back; null when there is no shell for it, or, where the guest can write to a disk, none that waits with one. */
  tryFork(...options: NativeForkOptions): NativeVm | null;
  /** Resolves when so many shells wait for forks of this snapshot, or as many as may be kept. */
  fillShells(count: number): Promise<void>;
  /** Writes the snapshot into a new directory, atomically. */
  save(directory: string, options: NativeSaveOptions): Promise<NativeSaveReport>;
  /**
   * Reads some of what is on disk and compares it with its digests: from 0 first, then from `next`, until that is 0. In
   * passing: a little at a time, with the least priority. Fails with `VMF_SNAPSHOT_INVALID`, after which forks do as well, and
   * with `VMF_STATE` when the snapshot is not on disk.
   */
  verify(position: number, inPassing: boolean): Promise<NativeVerifiedPart>;
  /** Keeps these ranges of RAM, pairs of offset and length in bytes, beside what is on disk. */
  recordWorkingSet(ranges: BigUint64Array): Promise<void>;
  /** Metadata given to `save`, when this snapshot was loaded. */
  metadata(): string;
  /** Lets go of the image. Clones that live keep their share of it. Idempotent. */
  close(): void;
}

export interface NativeEngineOptions {
  /** Scratch disks are nameless files in it; it is made when it is needed. Without one they are in memory. */
  scratchDirectory?: string;
  /** Shells that are made ahead for the shape of machine that is in use; default 4. */
  shellsReady?: number;
  /** Shells that are kept at most, of all shapes together; default 32. 0: no pool. */
  shellsKept?: number;
  /** Nice value of the threads that run vCPUs, 0 to 19; default 0. */
  vcpuNice?: number;
}

export interface NativeShellCounts {
  /** Waiting now. */
  ready: number;
  /** Made so far, ahead of time or by a fork that found none. */
  built: number;
  /** Taken back so far. */
  reused: number;
}

export interface NativeEngine {
  shells(): NativeShellCounts;
  /** What the layers take that were frozen of clones and are in use. */
  layerBytes(): number;
  boot(options: NativeBootOptions): Promise<NativeVm>;
  load(directory: string, options?: NativeLoadOptions): Promise<NativeSnapshot>;
  /** Has the next fork find the object that is to stand for its VM. */
  makeVmAhead(): void;
  /** Destroys every VM and ends all threads. Idempotent. */
  close(): Promise<void>;
}

export interface NativeAddon {
  probeHost(): NativeHostInfo;
  /** One engine: its own event loop threads and workers. `onEvent` is called on JavaScript's thread. */
  createEngine(onEvent: (event: NativeEvent) => void, options?: NativeEngineOptions): NativeEngine;

  version(): string;
}

const moduleRoot = resolve(dirname(fileURLToPath(import.meta.url)), '..');
let addon: NativeAddon | undefined;

/** Loads the addon, once per thread. Throws `VMF_ADDON` with the likely cause. */
export function loadNative(): NativeAddon {
  addon ??= loadAddon();
  return addon;
}

/** Size and time of the loaded addon's file: two builds of one version may differ in what they understand. */
export function addonBuild(): string {
  const { size, mtimeMs } = statSync((loadNative() as LoadedAddon).path);
  return `${size} ${mtimeMs}`;
}

function loadAddon(): NativeAddon {
  try {
    const bindings = createRequire(import.meta.url)('bindings') as Bindings;
    return bindings({ bindings: 'vmfork', module_root: moduleRoot });
  } catch (cause) {
    throw new VmforkError('VMF_ADDON', loadFailure(cause as NodeJS.ErrnoException), { cause });
  }
}

// `bindings` adds where it found the file.
type LoadedAddon = NativeAddon & { path: string };
type Bindings = (options: { bindings: string; module_root: string }) => LoadedAddon;

// The advice that fits: an addon that is absent, one for another machine, and one made by an older toolchain fail differently.
function loadFailure(error: NodeJS.ErrnoException): string {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    return `vmfork needs Linux on x86-64, this is ${process.platform} on ${process.arch}`;
  }
  if (error.message.includes('GLIBC')) {
    return 'it was built against newer C or C++ libraries than this system has; build it here';
  }
  return error.message.startsWith('Could not locate the bindings file')
    ? `no vmfork.node below ${moduleRoot}; it has not been built`
    : error.message;
}
