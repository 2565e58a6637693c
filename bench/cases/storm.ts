// Many clones at once: until the last one is forked, and until each has acknowledged its identity and answered a ping;
// and what they cost while all live. First with as many shells made ahead, then with none. A machine is forked when all of it is
// there and its guest may run; guests start in turns, one a processor at a time, so the last one's turn comes long after.

import { getPriority } from 'node:os';
import type { Snapshot } from '#src/index.js';
import type { BareFork } from '../harness/bare-fork.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { crowdEngine, forkCrowd } from '../harness/crowd.js';
import { availableKiB } from '../harness/host-memory.js';
import { type KernelMeter, openKernelMeter } from '../harness/kernel-memory.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const REPORT_EVERY_MS = 5000;
/** By then the engine knows what this snapshot's clones write as they start. */
const WARM_UP_FORKS = 4;

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
  await using engine = crowdEngine(kept);
  await using snapshot = await openSnapshot(run, engine);
  for (let round = 0; round < WARM_UP_FORKS; round++) await (await snapshot.fork()).destroy();
  const memoryBefore = await availableKiB();
  const kernelBefore = meter?.usedKiB() ?? 0;
  if (kept > 0) await snapshot.prepareShells(kept);
  run.progress(`${engine.shells.ready} shells, now ${run.n} clones`);
  const clones: BareFork[] = [];
  try {
    await forkAll(run, snapshot, clones, suffix);
    const usedKiB = memoryBefore - (await availableKiB());
    run.samples.add(`memory${suffix}_kib`, 'KiB', usedKiB / run.n);
    const kernelKiB = (meter?.usedKiB() ?? 0) - kernelBefore;
    if (meter) run.samples.add(`kernel${suffix}_kib`, 'KiB', kernelKiB / run.n);
  } finally {
    const start = now();
    await Promise.all(clones.map((clone) => clone.destroy()));
    run.progress(`all destroyed in ${Math.round(msSince(start))} ms`);
  }
  return { ...guestParameters(snapshot), clones: run.n, priority: getPriority() };
}

async function forkAll(
  run: CaseRun,
  snapshot: Snapshot,
  clones: BareFork[],
  suffix: string,
): Promise<void> {
  const start = now();
  await forkCrowd(snapshot, run.n, clones);
  const forkedMs = msSince(start);
  run.samples.addMs(`forked${suffix}_ms`, forkedMs);
  run.progress(`${run.n} forked in ${Math.round(forkedMs)} ms`);
  let answered = 0;
  const reports = setInterval(() => run.progress(`${answered} answered`), REPORT_EVERY_MS);
  try {
    await Promise.all(clones.map((clone) => clone.answer().then(() => void answered++)));
  } finally {
    clearInterval(reports);
  }
  const answeredMs = msSince(start);
  run.samples.addMs(`answered${suffix}_ms`, answeredMs);
  run.progress(`all answered after ${Math.round(answeredMs)} ms`);
}
