// Snapshots: frozen VMs, forked into clones any number of times.

import { forkChannel } from '../diagnostics.js';
import { fromNative } from '../errors.js';
import type { Charge } from '../memshare/budget.js';
import type { NativeSnapshot, NativeSnapshotInfo } from '../native.js';
import {
  CLONE_COUNT,
  checkOptions,
  checkValue,
  FORK_OPTIONS,
  type ForkOptions,
  object,
  RACE_OPTIONS,
  type Rules,
  SNAPSHOT_OPTIONS,
  type SnapshotOptions,
  WAIT_OPTIONS,
} from '../options.js';
import { linkSignals, throwIfAborted, type WaitOptions } from '../waiting.js';
import { Clone } from './clone.js';
import { Engine } from './engine.js';
import { type ForkPlan, planFork } from './fork-plan.js';
import { type Forked, forkMachine, type Origin } from './forking.js';
import {
  destroyedError,
  SCRUB_OPTIONS,
  type ScrubOptions,
  type ScrubProgress,
  scrubSnapshot,
  verifySnapshot,
} from './integrity.js';
import { isOver } from './lifecycle.js';
import type { Machine } from './machine.js';
import { createMetadata, type SnapshotMetadata } from './metadata.js';
import { type RaceOptions, type Runner, race, type Winner } from './race.js';
import {
  keepWorkingSet,
  LOAD_OPTIONS,
  type LoadOptions,
  loadSnapshot,
  type SavedSnapshot,
  type SaveOptions,
  saveOptions,
  saveSnapshot,
} from './saved-snapshot.js';
import type { CloneScope } from './scope.js';
import type { Timing } from './stage-clock.js';
import type { CachedOptions } from './template-cache.js';
import type { Vm } from './vm.js';

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
  readonly #source: WeakRef<Vm> | null;
  readonly #timings: readonly Timing[];
  readonly #scope: CloneScope | null;
  readonly #children = new Set<Clone>();
  #gone: AbortController | null = null; // For scrubs, which few snapshots see.
  #destroyed = false;

  /** @internal Use `vm.snapshot()`, `Snapshot.load()` or `Snapshot.cached()`. */
  constructor(
    engine: Engine,
    native: NativeSnapshot,
    metadata: SnapshotMetadata,
    source: Vm | null = null,
    timings: readonly Timing[] = [],
  ) {
    this.#engine = engine;
    this.#native = native;
    this.metadata = metadata;
    this.#source = source && new WeakRef(source);
    this.#timings = timings;
    this.#scope = source instanceof Clone ? source.scope : null;
    finalizer.register(this, native, this);
  }

  /**
   * Maps a saved snapshot and its bases; memory is read as it is touched, and checked only by {@link verify}. Rejects with
   * `VMF_SNAPSHOT_INVALID` when it is damaged, incomplete or not saved with `key`, and `VMF_SNAPSHOT_INCOMPATIBLE` when it
   * was made for another host, version or guest; the message says what does not fit.
   */
  static async load(directory: string, options: LoadOptions = {}): Promise<Snapshot> {
    checkOptions('load', { ...LOAD_OPTIONS, ...ENGINE_OPTION }, options);
    const engine = options.engine ?? Engine.default();
    const { native, metadata } = await loadSnapshot(engine, directory, options);
    return new Snapshot(engine, native, metadata);
  }

  /** A snapshot of a freshly booted guest, kept on disk from one run to the next. One caller boots when none fits; others wait. */
  static async cached(options: CachedOptions = {}): Promise<Snapshot> {
    // Booting builds on this class, so it is loaded when it is wanted.
    const { cachedSnapshot } = await import('./template-cache.js');
    return cachedSnapshot(options);
  }

  /** @internal What forks are made of. */
  get origin(): Origin {
    return { engine: this.#engine, native: this.#open(), metadata: this.metadata };
  }

  /** Sizes, bytes, and what it was made on. */
  get info(): NativeSnapshotInfo {
    return this.#open().info();
  }

  /** How many forks lie between the boot and the frozen machine: 0 for a template's. */
  get generation(): number {
    return this.metadata.generation;
  }

  /** The VM that it was taken of, as long as that lives; null for a loaded snapshot. */
  get source(): Vm | null {
    const source = this.#source?.deref();
    return source && !isOver(source.state) ? source : null;
  }

  /**
   * Nanoseconds per stage of the freezing: the source's guest came to rest in `quiesce`, and stood still for `pause`, which
   * is a part of `capture`. Empty for a loaded snapshot.
   */
  timings(): Timing[] {
    return this.#timings.map((timing) => ({ ...timing }));
  }

  /** The clones that were forked from it and live. */
  get children(): readonly Clone[] {
    return [...this.#children];
  }

  /** Whether {@link destroy} was called. */
  get destroyed(): boolean {
    return this.#destroyed;
  }

  /**
   * A new VM whose memory is a copy-on-write view of this one. It has acknowledged its own identity when this resolves.
   * Rejects with `VMF_IDENTITY`, `VMF_TOO_MANY_FILES`, `VMF_TOO_MANY_MAPS`, `VMF_NO_MEMORY`, and `VMF_FORK_POINT` when
   * nobody waits for the payload. With `count`: so many, in parallel; when one fails, all are destroyed.
   */
  fork(options: ForkOptions & { count: number }): Promise<Clone[]>;
  fork(options?: ForkOptions): Promise<Clone>;
  async fork(options: ForkOptions = {}): Promise<Clone | Clone[]> {
    const startMs = performance.now();
    checkOptions('fork', FORK_OPTIONS, options);
    if (options.count === undefined) return this.#forkOne(options, startMs);
    const plans = this.#plans(options, options.count, startMs);
    return this.#inScope(options, async (within) => {
      const charges = await this.#admit(plans.length, within);
      return allOrNone(
        plans.map((plan, index) => this.#forkAdmitted(plan, within, charges[index] as Charge)),
      );
    });
  }

  /**
   * So many clones, in parallel, each of which succeeds or fails by itself: resolves with one result for each, in order,
   * when all are there. Rejects only with `VMF_OPTIONS` and `VMF_STATE`.
   */
  async forkSettled(
    options: ForkOptions & { count: number },
  ): Promise<PromiseSettledResult<Clone>[]> {
    return Promise.allSettled(this.forkEach(options));
  }

  /** @internal So many clones, each by itself. */
  forkEach(options: ForkOptions & { count: number }): Promise<Clone>[] {
    const startMs = performance.now();
    checkOptions('forkSettled', FORK_OPTIONS, options);
    checkValue('count', CLONE_COUNT, options.count);
    return this.#plans(options, options.count, startMs).map((plan) =>
      this.#inScope(options, (within) => this.#admitAndFork(plan, within)),
    );
  }

  /**
   * Forks so many clones and runs `run` with each: the first that fulfils wins. The signals of the others fire, and all
   * clones are destroyed before this resolves; with `keepWinner` all but the winner's. Rejects with `VMF_RACE` when all
   * failed (its cause is an AggregateError), with `VMF_ABORTED`.
   */
  race<T>(options: RaceOptions & { keepWinner: true }, run: Runner<T>): Promise<Winner<T>>;
  race<T>(options: number | (RaceOptions & { keepWinner?: false }), run: Runner<T>): Promise<T>;
  async race<T>(options: number | RaceOptions, run: Runner<T>): Promise<T | Winner<T>> {
    const given = typeof options === 'number' ? { count: options } : options;
    checkOptions('race', RACE_OPTIONS, given);
    const winner = await race(this, given, run);
    return given.keepWinner ? winner : winner.value;
  }

  /**
   * Writes the snapshot into a new directory, atomically: all of it, or with `base` only what differs. Rejects with
   * `VMF_SYSTEM`, also when the directory exists, and with `VMF_STATE` when the base is not on disk.
   */
  async save(directory: string, options: SaveOptions = {}): Promise<SavedSnapshot> {
    checkOptions(
      'save',
      saveOptions((value) => value instanceof Snapshot),
      options,
    );
    const { base, key } = options;
    const native = this.#open();
    const nativeBase = base instanceof Snapshot ? base.#open() : base;
    return saveSnapshot(native, directory, this.metadata, { base: nativeBase, key });
  }

  /**
   * Reads all memory and disks that are on disk, of the bases too, and compares them with their digests. Rejects with
   * `VMF_SNAPSHOT_INVALID`, which names file and offset, and with `VMF_STATE` when the snapshot was neither saved nor loaded.
   * A loaded snapshot that was found damaged, and what was frozen of its clones, is not forked, reset to or saved any more;
   * its clones go on.
   */
  async verify(options: WaitOptions = {}): Promise<void> {
    checkOptions('verify', WAIT_OPTIONS, options);
    await verifySnapshot(this.#open(), options);
  }

  /**
   * The same once in the background: at a bounded rate, behind all other work, and without keeping in the host's page cache what was
   * not there. Rejects as {@link verify} does, and with `VMF_STATE` as soon as the snapshot is destroyed.
   */
  async scrub(options: ScrubOptions = {}): Promise<ScrubProgress> {
    checkOptions('scrub', SCRUB_OPTIONS, options);
    const native = this.#open();
    this.#gone ??= new AbortController();
    return scrubSnapshot(native, options, this.#gone.signal);
  }

  /**
   * Keeps which memory a clone of this snapshot has touched beside what is on disk, replacing what was recorded before;
   * `Snapshot.load()` with `prefetch` has it read ahead. Rejects with `VMF_STATE` when the snapshot is not on disk.
   */
  async recordWorkingSet(clone: Clone): Promise<void> {
    const native = this.#open();
    const isOurs = (value: unknown) => value instanceof Clone && value.parent === this;
    checkValue('clone', object('a clone of this snapshot', isOurs), clone);
    await keepWorkingSet(native, await clone.touchedRanges());
  }

  /**
   * Makes shells ahead: resolves when so many wait for forks of this snapshot, or as many as the engine may keep. Forks find
   * them faster than they are made in the background. Rejects as `fork()` does.
   */
  async prepareShells(count: number): Promise<void> {
    checkValue('count', CLONE_COUNT, count);
    await this.#open()
      .fillShells(count)
      .catch((error) => {
        throw fromNative(error);
      });
  }

  /** Lets go of the frozen memory. Clones that live keep their share of it. Idempotent. */
  async destroy(): Promise<void> {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#scope?.remove(this);
    this.#gone?.abort(destroyedError());
    finalizer.unregister(this);
    this.#native.close();
    this.#engine.budget.expectRoom();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  #open(): NativeSnapshot {
    if (this.#destroyed) throw destroyedError();
    return this.#native;
  }

  #plans(options: ForkOptions, count: number, startMs: number): ForkPlan[] {
    this.#open();
    const { forkPoints } = this.metadata;
    return Array.from({ length: count }, (_, index) =>
      planFork(forkPoints, options, startMs, index),
    );
  }

  /** Written so that no more code than needed runs before the clone does: most of it is cold, which is what takes its time. */
  #forkOne(options: ForkOptions, startMs: number): Promise<Clone> {
    this.#open();
    const plan = planFork(this.metadata.forkPoints, options, startMs);
    if (options.scope || this.#scope) {
      return this.#inScope(options, (within) => this.#admitAndFork(plan, within));
    }
    throwIfAborted('fork', options.signal);
    const charge = this.#engine.budget.tryAdmit();
    return charge ? this.#forkAdmitted(plan, options, charge) : this.#admitAndFork(plan, options);
  }

  async #admitAndFork(plan: ForkPlan, options: ForkOptions): Promise<Clone> {
    const [charge] = await this.#admit(1, options);
    return this.#forkAdmitted(plan, options, charge as Charge);
  }

  /** Has `work` fork within the scope that the options name, or this snapshot's, if any. */
  async #inScope<T>(options: ForkOptions, work: (options: ForkOptions) => Promise<T>): Promise<T> {
    throwIfAborted('fork', options.signal);
    const scope = options.scope ?? this.#scope;
    if (!scope) return work(options);
    scope.assertOpen();
    const { signal, unlink } = linkSignals(options.signal, scope.signal);
    return scope.track(work({ ...options, signal, scope }).finally(unlink));
  }

  #admit(count: number, { onBudget, budgetTimeoutMs, signal }: ForkOptions): Promise<Charge[]> {
    return this.#engine.budget.admit(count, { onBudget, timeoutMs: budgetTimeoutMs, signal });
  }

  async #forkAdmitted(plan: ForkPlan, options: ForkOptions, charge: Charge): Promise<Clone> {
    const { forkSlots } = this.#engine;
    try {
      const forked = await forkSlots.run('fork', options.signal, () =>
        forkMachine(this.origin, plan, options, charge),
      );
      return await this.#handOver(forked, options.scope ?? null);
    } catch (error) {
      charge.release();
      throw error;
    }
  }

  async #handOver(forked: Forked, scope: CloneScope | null): Promise<Clone> {
    const { agent, guest, containment } = this.metadata;
    const onOver = () => {
      this.#children.delete(clone);
      scope?.remove(clone);
    };
    const clone: Clone = new Clone(
      { ...forked, agent, guest, containment, onOver },
      this,
      scope,
      takeSnapshot,
    );
    this.#children.add(clone);
    try {
      scope?.add(clone);
    } catch (error) {
      await clone.destroy();
      throw error;
    }
    if (forkChannel.hasSubscribers) forkChannel.publish({ vm: clone.id, timings: forked.timings });
    return clone;
  }
}

/** Freezes a VM; it goes on afterwards. */
export async function takeSnapshot(
  machine: Machine,
  vm: Vm,
  options: SnapshotOptions,
): Promise<Snapshot> {
  checkOptions('snapshot', SNAPSHOT_OPTIONS, options);
  throwIfAborted('snapshot', options.signal);
  machine.assertLegal('snapshot');
  const { signal, timeoutMs } = options;
  const longRest = await vm.beforeSnapshot({ signal, timeoutMs });
  const { native, forkPoints, timings } = await machine.freeze(options, longRest);
  const { guest, agent, containment, generation } = vm;
  const metadata = createMetadata({
    guest,
    cid: vm.identity.cid,
    generation,
    agent,
    forkPoints,
    containment,
  });
  const snapshot = new Snapshot(machine.engine, native, metadata, vm, timings);
  try {
    if (vm instanceof Clone) vm.scope?.add(snapshot);
  } catch (error) {
    await snapshot.destroy();
    throw error;
  }
  return snapshot;
}

export const ENGINE_OPTION: Rules = {
  engine: object('an Engine', (value) => value instanceof Engine),
};

async function allOrNone(forks: Promise<Clone>[]): Promise<Clone[]> {
  const settled = await Promise.allSettled(forks);
  const clones = settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  const failed = settled.find((one) => one.status === 'rejected');
  if (!failed) return clones;
  await Promise.all(clones.map((clone) => clone.destroy()));
  throw failed.reason;
}
