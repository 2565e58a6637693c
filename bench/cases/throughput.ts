// Forks and destroys without a pause: how many a second the host can do, and how many when each guest answers in between.

import { Engine, type Snapshot } from '#src/index.js';
import { forkAndDestroy } from '../harness/bare-fork.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const ROUND_MS = 10_000;
const CALLERS = 4;

export const throughput: BenchCase = {
  name: 'throughput',
  summary: 'fork + destroy sustained for 10 s, a second (n = rounds)',
  defaultN: 3,
  async measure(run) {
    // A guest that is about to end is to yield to what ends it.
    await using engine = new Engine({ vcpuNice: 19 });
    await using snapshot = await openSnapshot(run, engine);
    await forkAndDestroy(snapshot, (begun) => begun < 100);
    for (let round = 0; round < run.n; round++) {
      run.samples.add('per_s', '1/s', await perSecond((goOn) => forkAndDestroy(snapshot, goOn)));
      run.samples.add('answered_per_s', '1/s', await perSecond((goOn) => pinged(snapshot, goOn)));
      run.progress(`${round + 1} of ${run.n}`);
    }
    return { ...guestParameters(snapshot), round_ms: ROUND_MS };
  },
};

async function perSecond(work: (goOn: () => boolean) => Promise<number>): Promise<number> {
  const start = now();
  const done = await work(() => msSince(start) < ROUND_MS);
  return (1000 * done) / msSince(start);
}

/** As a user of the library does it: each clone has acknowledged its identity and answered before it goes. */
async function pinged(snapshot: Snapshot, goOn: () => boolean): Promise<number> {
  let done = 0;
  const caller = async () => {
    while (goOn()) {
      await using clone = await snapshot.fork();
      await clone.ping();
      done++;
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  return done;
}
