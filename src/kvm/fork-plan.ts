// What is decided about a fork before it begins.

import { type FirstRelease, prepareRelease } from '../exec/release.js';
import { checkValue, type ForkOptions, type ForkPayload, PAYLOAD } from '../options.js';
import { StageClock } from './stage-clock.js';

/** How one of possibly many clones is forked. */
export interface ForkPlan {
  readonly hostname: string | undefined;
  readonly release: FirstRelease | null;
  /** Started when the caller asked for it. */
  readonly clock: StageClock;
}

/**
 * For one clone, or the one of so many with this index. `startMs`: of the call. Throws `VMF_OPTIONS`, and `VMF_FORK_POINT`
 * when nobody waits for a payload.
 */
export function planFork(
  forkPoints: readonly string[],
  { hostname, count, payload }: ForkOptions,
  startMs: number,
  index = 0,
): ForkPlan {
  const isNumbered = hostname !== undefined && count !== undefined;
  return {
    hostname: isNumbered ? `${hostname}-${index}` : hostname,
    release: payload === undefined ? null : planRelease(forkPoints, payload, index),
    clock: new StageClock(startMs),
  };
}

function planRelease(
  forkPoints: readonly string[],
  payload: NonNullable<ForkOptions['payload']>,
  index: number,
): FirstRelease {
  const own: ForkPayload = typeof payload === 'function' ? payload(index) : payload;
  checkValue('payload', PAYLOAD, own);
  return prepareRelease(forkPoints, own);
}
