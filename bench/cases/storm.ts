// Many clones at once: until the last has acknowledged its identity, and until each has answered a ping; and what they
// cost while all live. First with as many shells made ahead, then with none. Through the library's own queue, which lets as
// many guests start at a time as there are processors: more of them would only take the processors from each other.

import { type Clone, Engine, type Snapshot } from '#src/index.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { availableKiB } from '../harness/host-memory.js';
import { type KernelMeter, openKernelMeter } from '../harness/kernel-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

export const storm: BenchCase = {
  name: 'storm',
  summary: 'so many clones at once: all forked, all answered, memory of each (n = clones)',
  defaultN: 100,
  async measure(run) {
    const meter = openKernelMeter();
    try {
      await withShells(run, run.n, meter, '');
      return await withShells(run, 0, meter, '_cold');
    } finally {
      meter?.close();
    }
  },
};

async function withShells(
  run: CaseRun,
  kept: number,
  meter: KernelMeter | null,
  suffix: string,
): Promise<Record<string, number | string>> {
  // Guests that start up want more than all processors: they are to leave some to the forks after them.
  await using engine = new Engine({ shells: { ready: 0, kept }, vcpuNice: 19 });
  await using snapshot = await openSnapshot(run, engine);
  await (await snapshot.fork()).destroy();
  const memoryBefore = await availableKiB();
  const kernelBefore = meter?.usedKiB() ?? 0;
  if (kept > 0) await snapshot.prepareShells(kept);
  run.progress(`${engine.shells.ready} shells, now ${run.n} clones`);
  const clones: Clone[] = [];
  try {
    await forkAll(run, snapshot, clones, suffix);
    const usedKiB = memoryBefore - (await availableKiB());
    run.samples.add(`memory${suffix}_kib`, 'KiB', usedKiB / run.n);
    const kernelKiB = (meter?.usedKiB() ?? 0) - kernelBefore;
    if (meter) run.samples.add(`kernel${suffix}_kib`, 'KiB', kernelKiB / run.n);
  } finally {
    await Promise.all(clones.map((clone) => clone.destroy()));
  }
  return { ...guestParameters(snapshot), clones: run.n };
}

async function forkAll(
  run: CaseRun,
  snapshot: Snapshot,
  clones: Clone[],
  suffix: string,
): Promise<void> {
  const start = now();
  const forkAndAnswer = async () => {
    const clone = await snapshot.fork();
    clones.push(clone);
    if (clones.length === run.n) run.samples.addMs(`forked${suffix}_ms`, msSince(start));
    await clone.ping();
  };
  await Promise.all(Array.from({ length: run.n }, forkAndAnswer));
  run.samples.addMs(`answered${suffix}_ms`, msSince(start));
}
