// A hundred clones at once: until the last is forked and is itself, and until the last has answered a ping.

import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const CLONES = 100;

export const hundred: BenchCase = {
  name: 'hundred',
  summary: '100 clones at once: all forked, all answered',
  defaultN: 5,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await (await snapshot.fork()).destroy();
    for (let i = 0; i < run.n; i++) {
      const start = now();
      let forkedMs = 0;
      const forkAndPing = async () => {
        const clone = await snapshot.fork();
        forkedMs = msSince(start);
        await clone.ping();
        return clone;
      };
      const clones = await Promise.all(Array.from({ length: CLONES }, forkAndPing));
      run.samples.addMs('forked_ms', forkedMs);
      run.samples.addMs('answered_ms', msSince(start));
      const destroyStart = now();
      await Promise.all(clones.map((clone) => clone.destroy()));
      run.samples.addMs('destroyed_ms', msSince(destroyStart));
      run.progress(`${i + 1} of ${run.n}`);
    }
    return { ...guestParameters(snapshot), clones: CLONES };
  },
};
