// A thousand clones at once: until the last is forked, and until each has acknowledged its identity and answered a ping; and
// what they cost while all live. First with as many shells made ahead, then with none.

import { Engine, type Snapshot } from '#src/index.js';
import { BareFork } from '../harness/bare-fork.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { availableKiB } from '../harness/host-memory.js';
import { type KernelMeter, openKernelMeter } from '../harness/kernel-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

export const storm: BenchCase = {
  name: 'storm',
  summary: 'so many clones at once: all forked, all answered, memory of each (n = clones)',
  defaultN: 1000,
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
  await (await BareFork.of(snapshot)).destroy();
  const memoryBefore = await availableKiB();
  const kernelBefore = meter?.usedKiB() ?? 0;
  if (kept > 0) await snapshot.prepareShells(kept);
  run.progress(`${engine.shells.ready} shells, now ${run.n} clones`);
  const forks: BareFork[] = [];
  try {
    await forkAll(run, snapshot, forks, suffix);
    const usedKiB = memoryBefore - (await availableKiB());
    run.samples.add(`memory${suffix}_kib`, 'KiB', usedKiB / run.n);
    const kernelKiB = (meter?.usedKiB() ?? 0) - kernelBefore;
    if (meter) run.samples.add(`kernel${suffix}_kib`, 'KiB', kernelKiB / run.n);
  } finally {
    await Promise.all(forks.map((fork) => fork.destroy()));
  }
  return { ...guestParameters(snapshot), clones: run.n };
}

async function forkAll(
  run: CaseRun,
  snapshot: Snapshot,
  forks: BareFork[],
  suffix: string,
): Promise<void> {
  const start = now();
  const forkAndAnswer = async () => {
    const fork = await BareFork.of(snapshot);
    forks.push(fork);
    if (forks.length === run.n) run.samples.addMs(`forked${suffix}_ms`, msSince(start));
    await fork.answer();
  };
  await Promise.all(Array.from({ length: run.n }, forkAndAnswer));
  run.samples.addMs(`answered${suffix}_ms`, msSince(start));
}
