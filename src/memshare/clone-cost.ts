// What the clones of one engine take: measured a few at a time, and estimated for those to come.

const MIB = 1024 * 1024;
const LEAST_BYTES = MIB;
// Beside the guest's own pages: the kernel's objects for the machine and its threads, and page tables. Measured with 100
// clones of the default guest (benchmark `memory`, kernel_kib).
const KERNEL_BYTES = MIB;
const FIRST_GUESS_BYTES = MIB / 2;
// Weight of a measurement in the running mean.
const WEIGHT = 1 / 8;
// Measuring walks page tables, so only so many are looked at in one go.
const MEASURED_AT_ONCE = 4;

type Measure = () => Promise<number>;

/** One clone. */
export interface Cost {
  bytes: number;
  /** Bytes of guest memory that are the clone's own; null as long as it is being made. */
  measure: Measure | null;
}

export class CloneCost {
  // In the order in which they are to be measured.
  readonly #clones = new Set<Cost>();
  #totalBytes = 0;
  #meanPrivateBytes = FIRST_GUESS_BYTES;
  #measuredAt = Number.NEGATIVE_INFINITY;

  get count(): number {
    return this.#clones.size;
  }

  get totalBytes(): number {
    return this.#totalBytes;
  }

  /** What the next clone will probably take. */
  get estimateBytes(): number {
    return Math.max(LEAST_BYTES, Math.round(KERNEL_BYTES + this.#meanPrivateBytes));
  }

  /** A new clone, at the estimate. */
  add(): Cost {
    const clone = { bytes: this.estimateBytes, measure: null };
    this.#clones.add(clone);
    this.#totalBytes += clone.bytes;
    return clone;
  }

  /** Returns whether it was there. */
  remove(clone: Cost): boolean {
    if (!this.#clones.delete(clone)) return false;
    this.#totalBytes -= clone.bytes;
    return true;
  }

  /** Measures the next few in turn, in the background, unless it was done less than so long ago. */
  remeasure(leastAgeMs: number): void {
    const now = performance.now();
    if (now - this.#measuredAt < leastAgeMs) return;
    this.#measuredAt = now;
    for (const clone of [...this.#firstFew()]) {
      this.#clones.delete(clone);
      this.#clones.add(clone);
      this.measure(clone);
    }
  }

  /** Measures one, in the background; `onKnown` is called when it is charged what was found. */
  measure(clone: Cost, onKnown: () => void = () => {}): void {
    // A clone that has ended meanwhile is about to be removed.
    clone.measure?.().then(
      (privateBytes) => {
        this.learn(clone, privateBytes);
        onKnown();
      },
      () => {},
    );
  }

  *#firstFew(): Generator<Cost> {
    let left = MEASURED_AT_ONCE;
    for (const clone of this.#clones) {
      if (left-- === 0) return;
      yield clone;
    }
  }

  /** It was found to own so many bytes of guest memory, and is charged that from now on. */
  learn(clone: Cost, privateBytes: number): void {
    this.#meanPrivateBytes += (privateBytes - this.#meanPrivateBytes) * WEIGHT;
    if (!this.#clones.has(clone)) return;
    this.#totalBytes += KERNEL_BYTES + privateBytes - clone.bytes;
    clone.bytes = KERNEL_BYTES + privateBytes;
  }
}
