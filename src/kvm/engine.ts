// One engine: a native engine with its threads, the events of its VMs, and what is unique within it (CIDs).

import { randomInt } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fromNative, VmforkError } from '../errors.js';
import { dropFd } from '../exec/sockets.js';
import { type BudgetState, MemoryBudget } from '../memshare/budget.js';
import {
  loadNative,
  type NativeBootOptions,
  type NativeEngine,
  type NativeEvent,
  type NativeForkOptions,
  type NativeHostInfo,
  type NativeLoadOptions,
  type NativeShellCounts,
  type NativeSnapshot,
  type NativeVm,
} from '../native.js';
import { checkOptions } from '../options.js';
import { ENGINE_OPTIONS, type EngineOptions } from './engine-options.js';
import { cacheDirectory } from './guest.js';
import { IdentityStock } from './identity.js';
import { Slots } from './slots.js';

/** What a VM does with the events of its native half. */
export interface VmEventSink {
  /** `machine`: the VM's resets when what has ended was made. */
  onExit(machine: number, code: string, message: string): void;
  onConnection(port: number, guestPort: number, fd: number): void;
  onConsole(bytes: Uint8Array): void;
  onEngineClosed(): void;
}

const MIB = 1024 * 1024;
const FIRST_CID = 3; // 0 to 2 are the hypervisor, local and the host (virtio 1.2, 5.10.4).
const LAST_CID = 0x7fff_fffe;
// Forks that wait for their guest at the same time: each keeps a processor busy. More would only lengthen each one's wait,
// age the clock it was given, and let its timer fire the more often for the same work.
const FORKS_AT_ONCE = Math.max(2, availableParallelism());

let defaultEngine: Engine | undefined;

/**
 * Owns VMs and the threads that serve them. A program needs none of its own: every call without an `engine` option uses
 * one that is made on first use, per thread. An idle engine does not keep the process alive.
 */
export class Engine {
  readonly #native: NativeEngine;
  readonly #sinks = new Map<number, VmEventSink>();
  readonly #early = new Map<number, NativeEvent[]>();
  /** @internal */
  readonly forkSlots = new Slots(FORKS_AT_ONCE);
  /** @internal */
  readonly identities = new IdentityStock(() => this.newCid());
  #nextCid = randomInt(FIRST_CID, LAST_CID / 2);
  #making = 0;
  #closing: Promise<void> | undefined;

  /** @internal */
  readonly budget: MemoryBudget;

  /** Opens /dev/kvm. Throws `VMF_ADDON`, `VMF_KVM_MISSING`, `VMF_KVM_DENIED`, `VMF_KVM_CAPABILITY`, `VMF_OPTIONS`. */
  constructor(options: EngineOptions = {}) {
    checkOptions('Engine', ENGINE_OPTIONS, options);
    const { memoryBudgetMiB, onBudget = 'refuse', shells = {}, vcpuNice } = options;
    const fixedBytes = memoryBudgetMiB === undefined ? null : memoryBudgetMiB * MIB;
    const readLayerBytes = () => (this.#closing !== undefined ? 0 : this.#native.layerBytes());
    this.budget = new MemoryBudget({ fixedBytes, onBudget, readLayerBytes });
    const addon = loadNative();
    try {
      this.#native = addon.createEngine((event) => this.#onEvent(event), {
        scratchDirectory: join(cacheDirectory(), 'scratch'),
        ...(shells.ready !== undefined && { shellsReady: shells.ready }),
        ...(shells.kept !== undefined && { shellsKept: shells.kept }),
        ...(vcpuNice !== undefined && { vcpuNice }),
      });
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** The engine of this thread that is used when none is given; made on first use, and again after it was closed. */
  static default(): Engine {
    if (!defaultEngine || defaultEngine.#closing !== undefined) defaultEngine = new Engine();
    return defaultEngine;
  }

  /** VMs that have not been destroyed. */
  get vmCount(): number {
    return this.#sinks.size;
  }

  /** How much memory the clones of this engine take, and how much is left for more. */
  get memory(): BudgetState {
    return this.budget.state;
  }

  /** Shells of this engine. */
  get shells(): NativeShellCounts {
    this.#assertOpen();
    return this.#native.shells();
  }

  /** Destroys every VM and ends the engine's threads. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal A CID that no VM of this engine has had. */
  newCid(): number {
    const cid = this.#nextCid;
    this.#nextCid = cid >= LAST_CID ? FIRST_CID : cid + 1;
    return cid;
  }

  /** @internal Resolves with what `makeSink` made of the new VM. */
  boot<T extends VmEventSink>(
    options: NativeBootOptions,
    makeSink: (vm: NativeVm) => T,
  ): Promise<T> {
    return this.#make(() => this.#native.boot(options), makeSink);
  }

  /** @internal Resolves with what `makeSink` made of the new VM. */
  async fork<T extends VmEventSink>(
    snapshot: NativeSnapshot,
    options: NativeForkOptions,
    makeSink: (vm: NativeVm) => T,
  ): Promise<T> {
    this.#assertOpen();
    try {
      const vm = snapshot.tryFork(...options);
      if (vm) return this.#list(vm, makeSink);
    } catch (error) {
      throw fromNative(error);
    }
    return this.#make(() => snapshot.fork(...options), makeSink);
  }

  /** @internal What the next fork would have to wait for; while the guest of this one is at work. */
  drawAhead(): void {
    this.identities.refill();
    this.#native.makeVmAhead();
  }

  /** @internal */
  async load(directory: string, options: NativeLoadOptions): Promise<NativeSnapshot> {
    this.#assertOpen();
    return this.#native.load(directory, options).catch(rethrow);
  }

  /** @internal The VM is no more; what still comes for it is dropped. */
  forget(vm: number): void {
    this.#sinks.delete(vm);
  }

  // Events of a VM may be delivered before the promise that carries the VM has called back: they wait for its sink.
  async #make<T extends VmEventSink>(
    make: () => Promise<NativeVm>,
    makeSink: (vm: NativeVm) => T,
  ): Promise<T> {
    this.#assertOpen();
    this.#making++;
    try {
      const vm = await make();
      const sink = this.#list(vm, makeSink);
      const early = this.#early.get(vm.id) ?? [];
      this.#early.delete(vm.id);
      for (const event of early) deliver(sink, event);
      return sink;
    } catch (error) {
      throw fromNative(error);
    } finally {
      this.#making--;
      if (this.#making === 0) this.#dropEarly();
    }
  }

  #list<T extends VmEventSink>(vm: NativeVm, makeSink: (vm: NativeVm) => T): T {
    const sink = makeSink(vm);
    this.#sinks.set(vm.id, sink);
    return sink;
  }

  #onEvent(event: NativeEvent): void {
    const sink = this.#sinks.get(event.vm);
    if (sink) deliver(sink, event);
    else if (this.#making > 0) this.#keepEarly(event);
    else drop(event);
  }

  #keepEarly(event: NativeEvent): void {
    const events = this.#early.get(event.vm);
    if (events) events.push(event);
    else this.#early.set(event.vm, [event]);
  }

  #dropEarly(): void {
    for (const events of this.#early.values()) for (const event of events) drop(event);
    this.#early.clear();
  }

  async #close(): Promise<void> {
    this.budget.close(closedError());
    await this.#native.close();
    for (const sink of [...this.#sinks.values()]) sink.onEngineClosed();
    this.#sinks.clear();
    this.#dropEarly();
  }

  #assertOpen(): void {
    if (this.#closing !== undefined) throw closedError();
  }
}

/** What `/dev/kvm` of this host is and can do. Throws `VMF_ADDON`, `VMF_KVM_MISSING` or `VMF_KVM_DENIED`. */
export function probeHost(): NativeHostInfo {
  try {
    return loadNative().probeHost();
  } catch (error) {
    throw fromNative(error);
  }
}

function closedError(): VmforkError {
  return new VmforkError('VMF_STATE', 'the engine is closed');
}

function deliver(sink: VmEventSink, event: NativeEvent): void {
  if (event.kind === 'exit') sink.onExit(event.machine, event.code, event.message);
  else if (event.kind === 'console') sink.onConsole(event.bytes);
  else sink.onConnection(event.port, event.guestPort, event.fd);
}

function drop(event: NativeEvent): void {
  if (event.kind === 'connection') dropFd(event.fd);
}

function rethrow(error: unknown): never {
  throw fromNative(error);
}
