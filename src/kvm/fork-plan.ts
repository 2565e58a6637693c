// What is decided about forks before the first of them begins.

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

/** `startMs`: of that call. Throws `VMF_OPTIONS`, and `VMF_FORK_POINT` when nobody waits for a payload. */
export function planForks(
  forkPoints: readonly string[],
  options: ForkOptions,
  startMs: number,
): ForkPlan[] {
  const { hostname, count } = options;
  const plans: ForkPlan[] = [];
  for (let index = 0; index < (count ?? 1); index++) {
    const isNumbered = hostname !== undefined && count !== undefined;
    plans.push({
      hostname: isNumbered ? `${hostname}-${index}` : hostname,
      release: planRelease(forkPoints, options, index),
      clock: new StageClock(startMs),
    });
  }
  return plans;
}

function planRelease(
  forkPoints: readonly string[],
  { payload }: ForkOptions,
  index: number,
): FirstRelease | null {
  if (payload === undefined) return null;
  const own: ForkPayload = typeof payload === 'function' ? payload(index) : payload;
  checkValue('payload', PAYLOAD, own);
  return prepareRelease(forkPoints, own);
}
