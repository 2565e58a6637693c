// A clone that has written a hundred pages, back to its fork point: from the call to its memory and state being those of the
// snapshot again and its vCPU running, and to the guest having acknowledged its new identity.

import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { Companion, companionSnapshot } from '../harness/companion.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';
import { addStages } from './stages.js';

const DIRTY_PAGES = 100;
const NS_PER_MS = 1e6;

export const reset: BenchCase = {
  name: 'reset',
  summary: `a clone with ${DIRTY_PAGES} dirty pages back to its fork point`,
  defaultN: 100,
  async measure(run) {
    await using base = await openSnapshot(run);
    await using snapshot = await companionSnapshot(base, DIRTY_PAGES);
    await using clone = await snapshot.fork();
    await repeat(run, async (counts) => {
      using companion = await Companion.in(clone);
      await companion.dirty(1);
      const start = now();
      await clone.reset();
      const acknowledgedMs = msSince(start);
      await clone.ping();
      if (!counts) return;
      const stages = new Map(clone.timings().map(({ stage, ns }) => [stage, ns / NS_PER_MS]));
      const own = [...stages].filter(([stage]) => stage.startsWith('reset.'));
      run.samples.addMs('reset_ms', (stages.get('identity') ?? 0) + (stages.get('reset') ?? 0));
      run.samples.addMs(
        'restored_ms',
        own.reduce((sum, [, ms]) => sum + ms, 0),
      );
      run.samples.addMs('acknowledged_ms', acknowledgedMs);
      addStages(run.samples, clone.timings());
    });
    return { ...guestParameters(base), dirty_pages: DIRTY_PAGES };
  },
};
