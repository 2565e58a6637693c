// What a freeze is asked for and gives, and room in the memory budget for it.

import type { MemoryBudget, Reservation } from '../memshare/budget.js';
import type { NativeSnapshot } from '../native.js';
import type { SnapshotOptions } from '../options.js';
import type { Timing } from './stage-clock.js';

/** A frozen machine and what is known of it at that moment. */
export interface Frozen {
  native: NativeSnapshot;
  /** Names of the fork points at which processes wait. */
  forkPoints: readonly string[];
  /** Stages of the freezing; the guest stood still for `pause`, a part of `capture`. */
  timings: readonly Timing[];
}

/** Lets in what a clone or a template owns: until it is frozen, it is there twice. */
export function reserveLayer(
  budget: MemoryBudget,
  ownedBytes: number,
  ofClone: boolean,
  { signal, onBudget, budgetTimeoutMs = Infinity, timeoutMs = Infinity }: SnapshotOptions,
): Promise<Reservation> {
  const longestMs = Math.min(budgetTimeoutMs, timeoutMs);
  return budget.reserve(ownedBytes, ofClone, {
    signal,
    onBudget,
    timeoutMs: longestMs === Infinity ? undefined : longestMs,
  });
}
