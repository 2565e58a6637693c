// What a clone costs in all, by the memory that the machine has left: idle after a ping, and after each has run a command.

import type { Clone } from '#src/index.js';
import type { BenchCase } from '../harness/case.js';
import { availableKiB } from '../harness/host-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const WORK = ['/usr/bin/true'];
// Guests that are busy at once only delay each other.
const WORKERS = 4;

export const density: BenchCase = {
  name: 'density',
  summary: 'memory per clone by MemAvailable, idle and after a command (n = clones)',
  defaultN: 1000,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    await (await snapshot.fork()).destroy();
    const before = await availableKiB();
    const perClone = async () => (before - (await availableKiB())) / run.n;
    const clones = await snapshot.fork({ count: run.n });
    try {
      await eachOf(clones, (clone) => clone.ping());
      run.samples.add('idle_kib', 'KiB', await perClone());
      run.progress('idle measured, now a command in each');
      await eachOf(clones, (clone) => clone.exec(WORK));
      run.samples.add('worked_kib', 'KiB', await perClone());
    } finally {
      await Promise.all(clones.map((clone) => clone.destroy()));
    }
    return { ...guestParameters(snapshot), clones: run.n, work: WORK.join(' ') };
  },
};

async function eachOf(clones: readonly Clone[], work: (clone: Clone) => Promise<unknown>) {
  const queue = [...clones];
  const worker = async () => {
    for (let clone = queue.shift(); clone; clone = queue.shift()) await work(clone);
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
}
