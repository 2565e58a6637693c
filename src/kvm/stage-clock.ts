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

const UNTIL_FORKED = ['admit', 'identity', 'fork'];

/** Of a fork's timings: from the call until JavaScript knows that the state is restored and the vCPU's thread runs. */
export function forkedMs(timings: readonly Timing[]): number {
  return sumMs(timings, (stage) => UNTIL_FORKED.includes(stage));
}

/** Of those stages that are meant. Throws where there are fewer than a fork has. */
export function sumMs(timings: readonly Timing[], isMeant: (stage: string) => boolean): number {
  const meant = timings.filter(({ stage }) => isMeant(stage));
  if (meant.length < UNTIL_FORKED.length) throw new Error('the fork has no timings');
  return meant.reduce((sum, { ns }) => sum + ns, 0) / NS_PER_MS;
}
