// VMs made by forking.

import type { Tunnel } from '../exec/tunnel.js';
import {
  checkOptions,
  DIFF_OPTIONS,
  type ForkOptions,
  RESET_OPTIONS,
  type ResetOptions,
  type SnapshotOptions,
} from '../options.js';
import { throwIfAborted } from '../waiting.js';
import { branch } from './branch.js';
import { compareFiles, comparePages, type DiffOptions, type VmDifference } from './diff.js';
import { isOver } from './lifecycle.js';
import type { Machine } from './machine.js';
import type { SnapshotMetadata } from './metadata.js';
import { resetMachine } from './reset.js';
import type { CloneScope } from './scope.js';
import type { Snapshot } from './snapshot.js';
import { Vm, type VmParts } from './vm.js';

/** Takes a snapshot of a VM. */
type Freeze = (machine: Machine, vm: Vm, options: SnapshotOptions) => Promise<Snapshot>;

/** A VM made by `snapshot.fork()`. */
export class Clone extends Vm {
  /** The stream to the process that got the payload of `fork()`, null without one. */
  readonly forkPoint: Tunnel | null;
  readonly generation: number;
  /** It dies with this scope, if any. */
  readonly scope: CloneScope | null;
  readonly #freeze: Freeze;
  readonly #metadata: SnapshotMetadata;
  readonly #parent: WeakRef<Snapshot>;
  readonly #origin: WeakRef<Vm> | null;

  /** @internal Use `snapshot.fork()`. */
  constructor(
    parts: VmParts & { forkPoint: Tunnel | null },
    parent: Snapshot,
    scope: CloneScope | null,
    freeze: Freeze,
  ) {
    super(parts);
    this.forkPoint = parts.forkPoint;
    this.generation = parent.generation + 1;
    this.scope = scope;
    this.#freeze = freeze;
    this.#metadata = parent.metadata;
    this.#parent = new WeakRef(parent);
    this.#origin = parent.source && new WeakRef(parent.source);
  }

  /** The snapshot that it was forked from, null once that is destroyed. */
  get parent(): Snapshot | null {
    const parent = this.#parent.deref();
    return parent && !parent.destroyed ? parent : null;
  }

  /** The VM whose memory it took over, as long as that lives: the snapshot's source, or what was branched. */
  get origin(): Vm | null {
    const origin = this.#origin?.deref();
    return origin && !isOver(origin.state) ? origin : null;
  }

  /**
   * Freezes this clone, for a moment; it goes on afterwards. A fork of the result is a fork of a fork. Rejects with
   * `VMF_NO_MEMORY` when there is no room for what it has written.
   */
  snapshot(options: SnapshotOptions = {}): Promise<Snapshot> {
    return this.#freeze(this.machine, this, options);
  }

  /** A branch: a clone of this VM as it is now, which goes on. For more than one at a time `count` is the cheaper way. */
  fork(options: ForkOptions & { count: number }): Promise<Clone[]>;
  fork(options?: ForkOptions): Promise<Clone>;
  fork(options: ForkOptions = {}): Promise<Clone | Clone[]> {
    return branch(this, options);
  }

  /**
   * Back to the fork point, with a new identity, which it has acknowledged when this resolves; see docs/trees.md. What was
   * under way rejects with `VMF_RESET`. Rejects as `fork()` does; a clone that does not come back is destroyed.
   */
  async reset(options: ResetOptions = {}): Promise<void> {
    checkOptions('reset', RESET_OPTIONS, options);
    const renewed = await resetMachine(this.machine, this.#metadata, options);
    this.renew({ ...renewed, containment: this.#metadata.containment });
  }

  /**
   * What tells this clone from another one: pages (see `PageDifference`), and, when both have a root filesystem attached,
   * files. Reading a whole tree of files takes a few system calls each in the guest. Rejects with `VMF_STATE` when the two
   * have different sizes of memory.
   */
  async diff(other: Clone, options: DiffOptions = {}): Promise<VmDifference> {
    checkOptions('diff', DIFF_OPTIONS, options);
    const { path = '/', ...limits } = options;
    throwIfAborted('diff', limits.signal);
    const mine = this.machine.sessionFor('diff');
    const theirs = other.machine.sessionFor('diff');
    const memory = await this.machine.compare(other.machine);
    const attached = this.containment.rootfs && other.containment.rootfs;
    return {
      pages: comparePages(memory),
      files: attached && (await compareFiles(mine, theirs, path, limits)),
    };
  }

  /** @internal */
  touchedRanges(): Promise<BigUint64Array> {
    return this.machine.touchedRanges();
  }
}
