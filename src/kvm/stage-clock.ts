// Stages of a boot, fork or reset as the caller lives them.

/** One step of a boot, fork or reset and how long it took. */
export interface Timing {
  stage: string;
  ns: number;
}

export class StageClock {
  readonly stages: Timing[] = [];
  #last: bigint;

  /** `start`: when its first stage began, as `process.hrtime.bigint()` says. */
  constructor(start: bigint = process.hrtime.bigint()) {
    this.#last = start;
  }

  mark(stage: string): void {
    const now = process.hrtime.bigint();
    this.stages.push({ stage, ns: Number(now - this.#last) });
    this.#last = now;
  }
}
