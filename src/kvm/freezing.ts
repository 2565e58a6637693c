// What a freeze is asked for and gives, and room in the memory budget for it.

import type { Session } from '../exec/session.js';
import type { MemoryBudget, Reservation } from '../memshare/budget.js';
import type { NativeSnapshot } from '../native.js';
import type { SnapshotOptions } from '../options.js';
import type { WaitOptions } from '../waiting.js';
import { guestRest } from './rest.js';
import { StageClock, type Timing } from './stage-clock.js';

/** A frozen machine and what is known of it at that moment. */
export interface Frozen {
  native: NativeSnapshot;
  /** Names of the fork points at which processes wait. */
  forkPoints: readonly string[];
  /** Stages of the freezing; the guest stood still for `pause`, a part of `capture`. */
  timings: readonly Timing[];
}

/**
 * Brings the agent to rest and captures the machine; `goOn` has it go on, after a failure too: QUIESCE has been sent, so the
 * agent rests or is about to. When the machine has ended by then, nothing of the capture stays.
 */
export async function freezeAtRest(
  session: Session,
  capture: () => Promise<NativeSnapshot>,
  goOn: () => Promise<void>,
  limits: WaitOptions,
  longRest: boolean,
): Promise<Frozen> {
  const clock = new StageClock();
  let native: NativeSnapshot | undefined;
  try {
    let forkPoints: readonly string[] = [];
    try {
      await session.quiesce(limits);
      await guestRest(longRest, limits);
      clock.mark('quiesce');
      forkPoints = session.forkPoints.names;
      native = await capture();
      clock.mark('capture');
    } finally {
      await goOn();
    }
    const timings = [...clock.stages, { stage: 'pause', ns: native.info().pauseNs }];
    return { native, forkPoints, timings };
  } catch (error) {
    native?.close(); // Nobody gets it, and its memory is not to wait for the garbage collector.
    throw error;
  }
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
