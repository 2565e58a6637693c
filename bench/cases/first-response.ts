// How long until a clone does something for its caller: fork, identity applied and acknowledged, one ping answered.

import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

export const firstResponse: BenchCase = {
  name: 'first-response',
  summary: 'fork, identity acknowledged, and the first ping answered',
  defaultN: 100,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await repeat(run, async (counts) => {
      const start = now();
      await using clone = await snapshot.fork();
      const forkedMs = msSince(start);
      await clone.ping();
      const responseMs = msSince(start);
      if (!counts) return;
      run.samples.addMs('response_ms', responseMs);
      run.samples.addMs('acknowledged_ms', forkedMs);
    });
    return guestParameters(snapshot);
  },
};
