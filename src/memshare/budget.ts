// Admission control: forks are let in as long as memory for them is left, so that the kernel's OOM killer never has to choose.
//
// What clones take is known only afterwards, so a new one is charged an estimate: the mean of what clones of this engine were
// found to take, at least 1 MiB. With a fixed budget the charges are added up, and corrected as clones are measured. Without
// one the kernel is asked what is left; from its answer are taken the charges of those forks that it cannot know of yet.

import { VmforkError } from '../errors.js';
import { WaitQueue } from '../wait-queue.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import { type MemoryRoom, readMemoryRoom } from './available.js';
import { CloneCost, type Cost } from './clone-cost.js';

const MIB = 1024 * 1024;
// Kept free without a fixed budget: a twentieth of what there is, for the program itself and all others.
const RESERVE_SHARE = 0.05;
const RESERVE_MOST_BYTES = 1024 * MIB;
// The kernel's files are read again only when what they said is older.
const READ_EVERY_MS = 50;
// Measuring clones walks their page tables, which would slow a storm of forks down.
const MEASURE_EVERY_MS = 250;
// While somebody waits, memory may come free elsewhere, which nobody announces; a destroy looks again at once.
const LOOK_AGAIN_FIRST_MS = 50;
const LOOK_AGAIN_MOST_MS = 2000;

/** What a fork does when the memory budget is used up. */
export type OnBudget = 'wait' | 'refuse';

/** Options of an engine's budget. */
export interface BudgetOptions {
  /** Most bytes that clones may take together; null: what the machine and the cgroups have left. */
  fixedBytes: number | null;
  onBudget: OnBudget;
  /** Reads what is left. */
  readRoom?: () => MemoryRoom;
}

/** How a budget stands. */
export interface BudgetState {
  /** Clones that were let in and not yet destroyed. */
  clones: number;
  /** What they take by estimate and measurement, bytes. */
  chargedBytes: number;
  /** What a new clone is charged, bytes. */
  estimateBytes: number;
  /** What is left for more, bytes. */
  freeBytes: number;
  /** Forks that wait. */
  waiting: number;
}

/** Limits of one admission. */
export interface Admission extends WaitOptions {
  onBudget?: OnBudget | undefined;
}

/** The share of one clone. */
export interface Charge {
  /** It is forked and runs: the kernel counts it from now on, and `measure` says what it takes. */
  settle(measure: () => Promise<number>): void;
  /** It is gone, or was never made. Idempotent. */
  release(): void;
}

/** Someone in the queue, and what was made for them when their turn came. */
interface Turn {
  readonly count: number;
  charges: Charge[];
}

export class MemoryBudget {
  readonly #options: BudgetOptions;
  readonly #readRoom: () => MemoryRoom;
  readonly #cost = new CloneCost();
  /** Forks that the latest reading cannot know of in full, and what they were charged. */
  readonly #unseen = new Map<Cost, number>();
  #unseenBytes = 0;
  readonly #queue = new WaitQueue<Turn>(noMemoryInTime);
  #room: MemoryRoom = { availableBytes: 0, totalBytes: 0 };
  #readAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #lookAgainMs = LOOK_AGAIN_FIRST_MS;
  #closed: VmforkError | undefined;

  constructor(options: BudgetOptions) {
    this.#options = options;
    this.#readRoom = options.readRoom ?? readMemoryRoom;
  }

  get state(): BudgetState {
    return {
      clones: this.#cost.count,
      chargedBytes: this.#cost.totalBytes,
      estimateBytes: this.#cost.estimateBytes,
      freeBytes: Math.max(0, this.#freeBytes()),
      waiting: this.#queue.size,
    };
  }

  /**
   * Lets so many clones in, all or none, after those who came first. Rejects with `VMF_NO_MEMORY`: at once with `'refuse'`
   * and when they can never fit, else after `timeoutMs`; and with `VMF_ABORTED`.
   */
  async admit(count: number, { onBudget, ...limits }: Admission = {}): Promise<Charge[]> {
    throwIfAborted('fork', limits.signal);
    if (this.#closed) throw this.#closed;
    this.#cost.remeasure(MEASURE_EVERY_MS);
    if (this.#queue.size === 0 && this.#fits(count)) return this.#charge(count);
    const mode = onBudget ?? this.#options.onBudget;
    if (mode === 'refuse' || !this.#canEverFit(count)) throw this.#refusal(count);
    return this.#wait(count, limits);
  }

  /** Sends away those who wait, and everybody after. */
  close(error: VmforkError): void {
    this.#closed = error;
    this.#queue.fail(error);
    this.#stopLooking();
  }

  async #wait(count: number, limits: WaitOptions): Promise<Charge[]> {
    const turn: Turn = { count, charges: [] };
    const come = this.#queue.wait('fork', limits, turn);
    this.#lookAgainLater();
    try {
      await come;
      return turn.charges;
    } catch (error) {
      this.#startThoseThatFit(); // Whoever came behind may want less.
      throw error;
    }
  }

  #charge(count: number): Charge[] {
    return Array.from({ length: count }, () => {
      const cost = this.#cost.add();
      this.#unseen.set(cost, cost.bytes);
      this.#unseenBytes += cost.bytes;
      return {
        settle: (measure: () => Promise<number>) => {
          cost.measure = measure;
        },
        release: () => this.#release(cost),
      };
    });
  }

  #release(cost: Cost): void {
    if (!this.#cost.remove(cost)) return;
    this.#see(cost);
    this.#lookAgainMs = LOOK_AGAIN_FIRST_MS;
    this.#startThoseThatFit();
  }

  #startThoseThatFit(): void {
    for (let turn = this.#queue.first; turn && this.#fits(turn.count); turn = this.#queue.first) {
      turn.charges = this.#charge(turn.count);
      this.#queue.startFirst();
    }
    this.#stopLooking();
    if (this.#queue.size > 0) this.#lookAgainLater();
  }

  #lookAgainLater(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#lookAgainMs = Math.min(2 * this.#lookAgainMs, LOOK_AGAIN_MOST_MS);
      this.#cost.remeasure(MEASURE_EVERY_MS);
      this.#startThoseThatFit();
    }, this.#lookAgainMs);
  }

  #stopLooking(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #fits(count: number): boolean {
    return count * this.#cost.estimateBytes <= this.#freeBytes();
  }

  #canEverFit(count: number): boolean {
    const { fixedBytes } = this.#options;
    const mostBytes = fixedBytes ?? this.#room.totalBytes - this.#reserveBytes();
    return count * this.#cost.estimateBytes <= mostBytes;
  }

  #freeBytes(): number {
    const { fixedBytes } = this.#options;
    if (fixedBytes !== null) return fixedBytes - this.#cost.totalBytes;
    this.#readAgainIfOld();
    return this.#room.availableBytes - this.#reserveBytes() - this.#unseenBytes;
  }

  #readAgainIfOld(): void {
    const now = performance.now();
    if (now - this.#readAt < READ_EVERY_MS) return;
    try {
      this.#room = this.#readRoom();
    } catch (error) {
      // What was read last goes on to count: this may be a timer, or somebody who gives memory back.
      if (this.#readAt === Number.NEGATIVE_INFINITY) throw error;
      return;
    }
    this.#readAt = now;
    for (const cost of this.#unseen.keys()) if (cost.measure) this.#see(cost);
  }

  #see(cost: Cost): void {
    this.#unseenBytes -= this.#unseen.get(cost) ?? 0;
    this.#unseen.delete(cost);
  }

  #reserveBytes(): number {
    return Math.min(RESERVE_MOST_BYTES, this.#room.totalBytes * RESERVE_SHARE);
  }

  #refusal(count: number): VmforkError {
    const { clones, chargedBytes, estimateBytes, freeBytes, waiting } = this.state;
    const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;
    const wanted = `${count} more of about ${mib(estimateBytes)} each do not fit into ${mib(freeBytes)}`;
    const held = `${clones} clones take ${mib(chargedBytes)}, ${waiting} forks wait`;
    return new VmforkError('VMF_NO_MEMORY', `memory budget: ${wanted}; ${held}`, {
      operation: 'fork',
    });
  }
}

function noMemoryInTime(operation: string, timeoutMs: number): VmforkError {
  return new VmforkError('VMF_NO_MEMORY', `memory budget: no room within ${timeoutMs} ms`, {
    operation,
  });
}
