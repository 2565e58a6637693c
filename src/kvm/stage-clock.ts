// Stages of a boot, fork or reset as the caller lives them.

/** One step of a boot, fork or reset and how long it took. */
export interface Timing {
  stage: string;
  ns: number;
}

const NS_PER_MS = 1e6;

/** By `performance.now()`: the BigInts of `process.hrtime` would take a fork a tenth of its time. */
export class StageClock {
  readonly stages: Timing[] = [];
  #lastMs: number;

  /** `startMs`: when its first stage began, as `performance.now()` says. */
  constructor(startMs: number = performance.now()) {
    this.#lastMs = startMs;
  }

  mark(stage: string): void {
    const nowMs = performance.now();
    this.stages.push({ stage, ns: Math.round((nowMs - this.#lastMs) * NS_PER_MS) });
    this.#lastMs = nowMs;
  }
}
