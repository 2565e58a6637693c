// The guest's rest before a snapshot that many will be forked from.

import { setTimeout as sleep } from 'node:timers/promises';
import { type WaitOptions, withLimits } from '../waiting.js';

// From QUIESCED to a guest that sleeps: frozen earlier, every fork would first finish that sending for itself.
const ASLEEP_AFTER_MS = 25;
const REST_MS = 700;

/**
 * Resolves when a guest whose agent is at rest may be frozen. `long`: what its kernel puts off after a process has ended, and
 * after QUIESCE itself (RCU callbacks, their work items), is done then: once, and not in each clone, where it would take up
 * to 80 ms of an interpreted kernel.
 */
export const guestRest = (long: boolean, limits: WaitOptions): Promise<void> =>
  withLimits('snapshot', limits, sleep(long ? REST_MS : ASLEEP_AFTER_MS));
