// Snapshots and the clones forked from them: two classes in one file because each makes the other.

import { resolve } from 'node:path';
import { forkChannel } from '../diagnostics.js';
import { fromNative, VmforkError } from '../errors.js';
import { expectRelease, type FirstRelease, prepareRelease } from '../exec/release.js';
import type { Session } from '../exec/session.js';
import type { Tunnel } from '../exec/tunnel.js';
import type { NativeSnapshot, NativeSnapshotInfo } from '../native.js';
import {
  checkOptions,
  checkValue,
  FORK_OPTIONS,
  type ForkOptions,
  type ForkPayload,
  object,
  PAYLOAD,
  type Rules,
  WAIT_OPTIONS,
} from '../options.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import { Engine } from './engine.js';
import { checkAcknowledged, FORK_RESUME, type Identity, settleClock } from './identity.js';
import { Machine } from './machine.js';
import {
  createMetadata,
  parseMetadata,
  type SnapshotMetadata,
  serializeMetadata,
} from './metadata.js';
import type { CachedOptions } from './template-cache.js';
import { type Timing, Vm, type VmParts } from './vm.js';

const DEFAULT_IDENTITY_TIMEOUT_MS = 30_000;
const DEFAULT_CONSOLE_BYTES = 64 * 1024;

const finalizer = new FinalizationRegistry<NativeSnapshot>((native) => {
  process.emitWarning('a snapshot was dropped without destroy(); its memory was freed late', {
    code: 'VMFORK_SNAPSHOT_LEAK',
  });
  native.close();
});

/** A frozen VM. Immutable; any number of clones can be forked from it. */
export class Snapshot {
  readonly metadata: SnapshotMetadata;
  readonly #engine: Engine;
  readonly #native: NativeSnapshot;
  #destroyed = false;

  /** @internal Use `vm.snapshot()`, `Snapshot.load()` or `Snapshot.cached()`. */
  constructor(engine: Engine, native: NativeSnapshot, metadata: SnapshotMetadata) {
    this.#engine = engine;
    this.#native = native;
    this.metadata = metadata;
    finalizer.register(this, native, this);
  }

  /**
   * Maps a saved snapshot; its memory is read as it is touched. Rejects with `VMF_SNAPSHOT_INVALID` when it is damaged and
   * `VMF_SNAPSHOT_INCOMPATIBLE` when it was made for another host or version; the message says what does not fit.
   */
  static async load(
    directory: string,
    options: { engine?: Engine | undefined } = {},
  ): Promise<Snapshot> {
    checkOptions('load', ENGINE_OPTION, options);
    const engine = options.engine ?? Engine.default();
    const native = await engine.load(resolve(directory));
    try {
      return new Snapshot(engine, native, parseMetadata(native.metadata()));
    } catch (error) {
      native.close();
      throw fromNative(error);
    }
  }

  /** A snapshot of a freshly booted guest, kept on disk from one run to the next: boots only when none fits. */
  static async cached(options: CachedOptions = {}): Promise<Snapshot> {
    // Booting builds on this class, so it is loaded when it is wanted.
    const { cachedSnapshot } = await import('./template-cache.js');
    return cachedSnapshot(options);
  }

  /** Sizes, bytes, and what it was made on. */
  get info(): NativeSnapshotInfo {
    return this.#open().info();
  }

  /**
   * A new VM whose memory is a copy-on-write view of this one. It has acknowledged its own identity when this resolves.
   * Rejects with `VMF_IDENTITY`, `VMF_TOO_MANY_FILES`, `VMF_TOO_MANY_MAPS`, `VMF_NO_MEMORY`, and `VMF_FORK_POINT` when
   * nobody waits for the payload. With `count`: so many, in parallel; when one fails, all are destroyed.
   */
  fork(options: ForkOptions & { count: number }): Promise<Clone[]>;
  fork(options?: ForkOptions): Promise<Clone>;
  async fork(options: ForkOptions = {}): Promise<Clone | Clone[]> {
    checkOptions('fork', FORK_OPTIONS, options);
    this.#open();
    if (options.count === undefined) {
      return this.#forkInTurn(options, options.hostname, this.#release(options, 0));
    }
    const { count, hostname } = options;
    const releases = Array.from({ length: count }, (_, index) => this.#release(options, index));
    const forks = releases.map((release, index) => {
      const name = hostname === undefined ? undefined : `${hostname}-${index}`;
      return this.#forkInTurn(options, name, release);
    });
    return allOrNone(forks);
  }

  /** Writes the snapshot into a new directory, atomically. Rejects with `VMF_SYSTEM`, also when the directory exists. */
  async save(directory: string): Promise<void> {
    const native = this.#open();
    await native.save(resolve(directory), serializeMetadata(this.metadata)).catch((error) => {
      throw fromNative(error);
    });
  }

  /** Lets go of the frozen memory. Clones that live keep their share of it. Idempotent. */
  async destroy(): Promise<void> {
    if (this.#destroyed) return;
    this.#destroyed = true;
    finalizer.unregister(this);
    this.#native.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  #open(): NativeSnapshot {
    if (this.#destroyed) throw new VmforkError('VMF_STATE', 'the snapshot was destroyed');
    return this.#native;
  }

  #release({ payload }: ForkOptions, index: number): FirstRelease | null {
    if (payload === undefined) return null;
    const own: ForkPayload = typeof payload === 'function' ? payload(index) : payload;
    checkValue('payload', PAYLOAD, own);
    return prepareRelease(this.metadata.forkPoints, own);
  }

  #forkInTurn(
    options: ForkOptions,
    hostname: string | undefined,
    release: FirstRelease | null,
  ): Promise<Clone> {
    throwIfAborted('fork', options.signal);
    return this.#engine.forkSlots.run('fork', options.signal, () =>
      this.#forkNow(options, hostname, release),
    );
  }

  async #forkNow(
    options: ForkOptions,
    hostname: string | undefined,
    release: FirstRelease | null,
  ): Promise<Clone> {
    const clock = new StageClock();
    const engine = this.#engine;
    const native = this.#open();
    const { identity, resume } = engine.identities.take(hostname);
    const controlBytes = release ? Buffer.concat([resume, release.bytes]) : resume;
    const consoleBytes = options.consoleBytes ?? DEFAULT_CONSOLE_BYTES;
    clock.mark('identity');
    const forkOptions = { cid: identity.cid, controlBytes, consoleBytes };
    const forking = engine.fork(native, forkOptions, (vm) => new Machine(engine, vm));
    engine.identities.refill(); // while a worker forks
    const machine = await forking;
    clock.mark('fork');
    try {
      const session = machine.openControl(this.metadata);
      const forkPoint = release && expectRelease(session, release);
      await this.#acknowledge(session, identity, options);
      await forkPoint?.opened;
      clock.mark('acknowledge');
      machine.ready();
      return this.#handOver(machine, identity, clock, forkPoint);
    } catch (error) {
      await machine.destroy();
      throw error;
    }
  }

  #handOver(
    machine: Machine,
    identity: Identity,
    clock: StageClock,
    forkPoint: Tunnel | null,
  ): Clone {
    const native = machine.stages.map(({ name, ns }) => ({ stage: `fork.${name}`, ns }));
    const timings = [...clock.stages, ...native];
    const clone = new Clone({
      machine,
      identity,
      agent: this.metadata.agent,
      guest: this.metadata.guest,
      containment: this.metadata.containment,
      timings,
      forkPoint,
    });
    if (forkChannel.hasSubscribers) forkChannel.publish({ vm: clone.id, timings });
    return clone;
  }

  async #acknowledge(session: Session, identity: Identity, options: ForkOptions): Promise<void> {
    const timeoutMs = options.identityTimeoutMs ?? DEFAULT_IDENTITY_TIMEOUT_MS;
    const limits = { timeoutMs, signal: options.signal };
    try {
      const answer = await session.expectResumed(FORK_RESUME, limits);
      checkAcknowledged(identity, answer, this.metadata.cid);
      await settleClock(session, identity, answer, limits);
    } catch (error) {
      if (!VmforkError.is(error) || error.code === 'VMF_IDENTITY' || error.code === 'VMF_ABORTED') {
        throw error;
      }
      throw new VmforkError('VMF_IDENTITY', error.message, {
        cause: error,
        ...(error.consoleTail !== undefined && { consoleTail: error.consoleTail }),
      });
    }
  }
}

/** A VM made by `snapshot.fork()`. */
export class Clone extends Vm {
  /** The stream to the process that got the payload of `fork()`, null without one. */
  readonly forkPoint: Tunnel | null;

  /** @internal Use `snapshot.fork()`. */
  constructor(parts: VmParts & { forkPoint: Tunnel | null }) {
    super(parts);
    this.forkPoint = parts.forkPoint;
  }

  /** Freezes this clone; it goes on afterwards. A fork of the result is a fork of a fork. */
  snapshot(options: WaitOptions = {}): Promise<Snapshot> {
    return takeSnapshot(this.machine, this, options);
  }
}

/** Freezes a VM; it goes on afterwards. */
export async function takeSnapshot(
  machine: Machine,
  vm: Vm,
  options: WaitOptions,
): Promise<Snapshot> {
  checkOptions('snapshot', WAIT_OPTIONS, options);
  throwIfAborted('snapshot', options.signal);
  machine.assertLegal('snapshot');
  await vm.beforeSnapshot(options);
  const { native, forkPoints } = await machine.freeze(options);
  const { guest, agent, containment } = vm;
  const metadata = createMetadata({
    guest,
    cid: vm.identity.cid,
    agent,
    forkPoints,
    containment,
  });
  return new Snapshot(machine.engine, native, metadata);
}

export const ENGINE_OPTION: Rules = {
  engine: object('an Engine', (value) => value instanceof Engine),
};

/** Stages as the caller lives them. */
export class StageClock {
  readonly stages: Timing[] = [];
  #last = process.hrtime.bigint();

  mark(stage: string): void {
    const now = process.hrtime.bigint();
    this.stages.push({ stage, ns: Number(now - this.#last) });
    this.#last = now;
  }
}

async function allOrNone(forks: Promise<Clone>[]): Promise<Clone[]> {
  const settled = await Promise.allSettled(forks);
  const clones = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const failed = settled.find((one) => one.status === 'rejected');
  if (!failed) return clones;
  await Promise.all(clones.map((clone) => clone.destroy()));
  throw failed.reason;
}
