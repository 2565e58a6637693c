// Admission control: forks are let in as long as memory for them is left, so that the kernel's OOM killer never has to choose.
//
// What clones take is known only afterwards, so a new one is charged an estimate: the mean of what clones of this engine were
// found to take, at least 1 MiB. With a fixed budget the charges are added up, and corrected as clones are measured. Without
// one the kernel is asked what is left; from its answer are taken the charges of those forks that it cannot know of yet. It is
// asked with one as well: what is not there cannot be given, whoever has it.
//
// A snapshot writes what its source owns into a layer, and is let in for that beforehand. From then on the engine's own count
// of layers says what clones have frozen, until nobody uses it any more.

import { availableParallelism } from 'node:os';
import { VmforkError } from '../errors.js';
import { WaitQueue } from '../wait-queue.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import { MemoryGauge, type MemoryRoom } from './available.js';
import { CloneCost, type Cost } from './clone-cost.js';

const MIB = 1024 * 1024;
// Kept free in any case: a twentieth of what there is, for the program itself and all others.
const RESERVE_SHARE = 0.05;
const RESERVE_MOST_BYTES = 1024 * MIB;
// The kernel's files are read again only when what they said is older,
const READ_EVERY_MS = 50;
// and a fork waits for that only when all processors together could have used up what they said was left: memory is
// cleared when it is first touched, of which one does less than so much, in huge pages too.
const TAKEN_BYTES_PER_MS = 8 * MIB * availableParallelism();
// Measuring clones walks their page tables, which would slow a storm of forks down.
const MEASURE_EVERY_MS = 250;
// While somebody waits, memory may come free elsewhere, which nobody announces; a destroy looks again at once.
const LOOK_AGAIN_FIRST_MS = 50;
const LOOK_AGAIN_MOST_MS = 2000;

/** What a fork or snapshot does when the memory budget is used up. */
export type OnBudget = 'wait' | 'refuse';

/** Options of an engine's budget. */
export interface BudgetOptions {
  /** Most bytes that clones may take together; null: what the machine and the cgroups have left. */
  fixedBytes: number | null;
  onBudget: OnBudget;
  /** Says what is left. */
  gauge?: Pick<MemoryGauge, 'read' | 'lookForAbsent' | 'close'>;
  /** What was frozen of clones and is in use, bytes. */
  readLayerBytes?: () => number;
}

/** How a budget stands. */
export interface BudgetState {
  /** Clones that were let in and not yet destroyed. */
  clones: number;
  /** What they take by estimate and measurement, and what was frozen of them, bytes. */
  chargedBytes: number;
  /** Of that, frozen: it counts for as long as a snapshot or a VM uses it. */
  layerBytes: number;
  /** What a new clone is charged, bytes. */
  estimateBytes: number;
  /** What is left for more, bytes. */
  freeBytes: number;
  /** Forks and snapshots that wait. */
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
  /** It was found to own so many bytes of guest memory. */
  measured(privateBytes: number): void;
  /** It takes something else now. */
  measureAgain(): void;
  /** It is gone, or was never made. Idempotent. */
  release(): void;
}

/** Memory that is about to be taken. */
export interface Reservation {
  /** It was taken, which the kernel and the engine count from now on, or will not be. Idempotent. */
  release(): void;
}

/** What somebody wants, and who: clones, or a snapshot of one, count towards a fixed budget, a template does not. */
interface Wish {
  readonly operation: string;
  readonly ofClones: boolean;
  bytes(): number;
  describe(): string;
}

/** Someone in the queue. */
interface Turn {
  readonly wish: Wish;
  take(): void;
}

export class MemoryBudget {
  readonly #options: BudgetOptions;
  readonly #gauge: NonNullable<BudgetOptions['gauge']>;
  readonly #cost = new CloneCost();
  /** Forks that the latest reading cannot know of in full, and what they were charged. */
  readonly #unseen = new Map<Cost, number>();
  #unseenBytes = 0;
  readonly #reserved = { bytes: 0, ofClonesBytes: 0 };
  #isOutdated = false;
  readonly #queue = new WaitQueue<Turn>(noMemoryInTime);
  #room: MemoryRoom = { availableBytes: 0, totalBytes: 0 };
  #readAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #lookAgainMs = LOOK_AGAIN_FIRST_MS;
  #closed: VmforkError | undefined;

  constructor(options: BudgetOptions) {
    this.#options = options;
    this.#gauge = options.gauge ?? new MemoryGauge();
  }

  get state(): BudgetState {
    this.#readAgainIfOld();
    return {
      clones: this.#cost.count,
      chargedBytes: this.#chargedBytes(),
      layerBytes: this.#layerBytes(),
      estimateBytes: this.#cost.estimateBytes,
      freeBytes: Math.max(0, this.#freeBytes(true)),
      waiting: this.#queue.size,
    };
  }

  /** Lets one clone in when that is possible here and now; else null, and {@link admit} finds out why. */
  tryAdmit(): Charge | null {
    if (this.#closed || this.#queue.size > 0) return null;
    return this.#hasRoom(this.#cost.estimateBytes, true) ? this.#chargeOne() : null;
  }

  /**
   * Lets so many clones in, all or none, after those who came first. Rejects with `VMF_NO_MEMORY`: at once with `'refuse'`
   * and when they can never fit, else after `timeoutMs`; and with `VMF_ABORTED`.
   */
  admit(count: number, admission: Admission = {}): Promise<Charge[]> {
    const cost = this.#cost;
    const wish: Wish = {
      operation: 'fork',
      ofClones: true,
      bytes: () => count * cost.estimateBytes,
      describe: () => `${count} more of about ${mib(cost.estimateBytes)} each do not fit`,
    };
    return this.#letIn(wish, () => this.#charge(count), admission);
  }

  /** Lets so many bytes be frozen, of a clone or of a template; rejects as {@link admit} does. */
  reserve(bytes: number, ofClones: boolean, admission: Admission = {}): Promise<Reservation> {
    this.#cost.remeasure(MEASURE_EVERY_MS);
    const describe = () => `a snapshot of ${mib(bytes)} does not fit`;
    const wish: Wish = { operation: 'snapshot', ofClones, bytes: () => bytes, describe };
    return this.#letIn(wish, () => this.#reserve(wish), admission);
  }

  /** Memory is about to come free; those who wait look for it soon. */
  expectRoom(): void {
    this.#lookAgainMs = LOOK_AGAIN_FIRST_MS;
    if (this.#queue.size === 0) return;
    this.#stopLooking();
    this.#lookAgainLater();
  }

  /** Sends away those who wait, and everybody after. */
  close(error: VmforkError): void {
    this.#closed = error;
    this.#queue.fail(error);
    this.#stopLooking();
    this.#gauge.close();
  }

  async #letIn<T>(wish: Wish, take: () => T, { onBudget, ...limits }: Admission): Promise<T> {
    throwIfAborted(wish.operation, limits.signal);
    if (this.#closed) throw this.#closed;
    if (this.#queue.size === 0 && this.#fits(wish)) return take();
    this.#cost.remeasure(MEASURE_EVERY_MS);
    const mode = onBudget ?? this.#options.onBudget;
    if (mode === 'refuse' || !this.#canEverFit(wish)) throw this.#refusal(wish);
    return this.#wait(wish, take, limits);
  }

  async #wait<T>(wish: Wish, take: () => T, limits: WaitOptions): Promise<T> {
    let taken: { value: T } | undefined;
    const turn: Turn = {
      wish,
      take: () => {
        taken = { value: take() };
      },
    };
    const come = this.#queue.wait(wish.operation, limits, turn);
    this.#lookAgainLater();
    try {
      await come;
      return (taken as unknown as { value: T }).value;
    } catch (error) {
      this.#startThoseThatFit(); // Whoever came behind may want less.
      throw error;
    }
  }

  #charge(count: number): Charge[] {
    const charges: Charge[] = [];
    while (charges.length < count) charges.push(this.#chargeOne());
    return charges;
  }

  #chargeOne(): Charge {
    const cost = this.#cost.add();
    this.#unseen.set(cost, cost.bytes);
    this.#unseenBytes += cost.bytes;
    return {
      settle: (measure: () => Promise<number>) => {
        cost.measure = measure;
        this.#afterFork();
      },
      measured: (privateBytes: number) => this.#cost.learn(cost, privateBytes),
      measureAgain: () => this.#cost.measure(cost, () => this.#startThoseThatFit()),
      release: () => this.#release(cost),
    };
  }

  /** What would only make the next fork wait, if it were done when that begins. */
  #afterFork(): void {
    this.#cost.remeasure(MEASURE_EVERY_MS);
    this.#gauge.lookForAbsent();
    this.#readAgainIfOld();
  }

  #release(cost: Cost): void {
    if (!this.#cost.remove(cost)) return;
    this.#see(cost);
    this.#lookAgainMs = LOOK_AGAIN_FIRST_MS;
    this.#startThoseThatFit();
  }

  #reserve(wish: Wish): Reservation {
    const count = (bytes: number) => {
      this.#reserved.bytes += bytes;
      if (wish.ofClones) this.#reserved.ofClonesBytes += bytes;
    };
    const bytes = wish.bytes();
    let isReleased = false;
    count(bytes);
    return {
      release: () => {
        if (isReleased) return;
        isReleased = true;
        count(-bytes);
        this.#isOutdated = true; // The latest reading knows nothing of it.
        this.#startThoseThatFit();
      },
    };
  }

  #startThoseThatFit(): void {
    for (let turn = this.#queue.first; turn && this.#fits(turn.wish); turn = this.#queue.first) {
      turn.take();
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

  #fits({ bytes, ofClones }: Wish): boolean {
    return this.#hasRoom(bytes(), ofClones);
  }

  #hasRoom(bytes: number, forClones: boolean): boolean {
    if (this.#hereBytes() - bytes < this.#readingAgeMs() * TAKEN_BYTES_PER_MS)
      this.#readAgainIfOld();
    return bytes <= this.#freeBytes(forClones);
  }

  #canEverFit(wish: Wish): boolean {
    const fixedBytes = (wish.ofClones && this.#options.fixedBytes) || Infinity;
    return wish.bytes() <= Math.min(fixedBytes, this.#room.totalBytes - this.#reserveBytes());
  }

  #freeBytes(forClones: boolean): number {
    const { fixedBytes } = this.#options;
    const hereBytes = this.#hereBytes();
    if (fixedBytes === null || !forClones) return hereBytes;
    return Math.min(hereBytes, fixedBytes - this.#chargedBytes());
  }

  /** What the latest reading leaves. */
  #hereBytes(): number {
    const takenBytes = this.#unseenBytes + this.#reserved.bytes;
    return this.#room.availableBytes - this.#reserveBytes() - takenBytes;
  }

  #chargedBytes(): number {
    return this.#cost.totalBytes + this.#layerBytes() + this.#reserved.ofClonesBytes;
  }

  #layerBytes(): number {
    return this.#options.readLayerBytes?.() ?? 0;
  }

  #readAgainIfOld(): void {
    if (this.#closed || this.#readingAgeMs() < READ_EVERY_MS) return;
    try {
      this.#room = this.#gauge.read();
    } catch (error) {
      // What was read last goes on to count: this may be a timer, or somebody who gives memory back.
      if (this.#readAt === Number.NEGATIVE_INFINITY) throw error;
      return;
    }
    this.#readAt = nowMs();
    this.#isOutdated = false;
    for (const cost of this.#unseen.keys()) if (cost.measure) this.#see(cost);
  }

  #readingAgeMs(): number {
    return this.#isOutdated ? Infinity : nowMs() - this.#readAt;
  }

  #see(cost: Cost): void {
    this.#unseenBytes -= this.#unseen.get(cost) ?? 0;
    this.#unseen.delete(cost);
  }

  #reserveBytes(): number {
    return Math.min(RESERVE_MOST_BYTES, this.#room.totalBytes * RESERVE_SHARE);
  }

  #refusal({ operation, ofClones, describe }: Wish): VmforkError {
    const { clones, chargedBytes, waiting } = this.state;
    const wanted = `${describe()} into ${mib(Math.max(0, this.#freeBytes(ofClones)))}`;
    const held = `${clones} clones and what was frozen of them take ${mib(chargedBytes)}, ${waiting} wait`;
    return new VmforkError('VMF_NO_MEMORY', `memory budget: ${wanted}; ${held}`, { operation });
  }
}

/** By the clock that a fork has just read: another's code would be cold. */
const nowMs = () => performance.now();

const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;

function noMemoryInTime(operation: string, timeoutMs: number): VmforkError {
  return new VmforkError('VMF_NO_MEMORY', `memory budget: no room within ${timeoutMs} ms`, {
    operation,
  });
}
