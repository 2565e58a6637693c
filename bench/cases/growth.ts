// Does a fork take longer with more memory, deeper in a tree, among more clones, after more forks? Medians at some points,
// and two sums: the largest over the first (`growth`), and the largest over any before it (`growth_worst`), which a slow first
// point cannot hide. 1 would be perfectly flat.

import { Snapshot } from '#src/index.js';
import { forkedMs } from '#src/kvm/stage-clock.js';
import { BareFork, forkAndDestroy } from '../harness/bare-fork.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { crowdEngine, forkCrowd } from '../harness/crowd.js';
import { guestParameters, MEMORY_MIB, openSnapshot } from './default-guest.js';

const SIZES_MIB = [128, 512, 1024, 4096];
const DEPTHS = [1, 2, 8, 32, 64];
const LIVE = [1, 10, 100, 300, 1000];
const HISTORY = [1, 100, 1000, 10_000, 100_000];
const WARM_UP_ROUNDS = 5;

export const size: BenchCase = {
  name: 'size',
  summary: `fork time over guest memory of ${SIZES_MIB.join(', ')} MiB`,
  defaultN: 50,
  async measure(run) {
    const points = new Map<number, Snapshot>();
    try {
      for (const memoryMiB of SIZES_MIB) {
        run.progress(`template of ${memoryMiB} MiB: loading, or booting it when none is cached`);
        points.set(memoryMiB, await Snapshot.cached({ memoryMiB, bootTimeoutMs: 300_000 }));
      }
      await interleave(run, points);
      const first = points.get(MEMORY_MIB) as Snapshot;
      return { ...guestParameters(first), memory_mib: SIZES_MIB.join(' ') };
    } finally {
      for (const snapshot of points.values()) await snapshot.destroy();
    }
  },
};

export const depth: BenchCase = {
  name: 'depth',
  summary: `fork time of snapshots ${DEPTHS.join(', ')} forks deep`,
  defaultN: 50,
  async measure(run) {
    await using base = await openSnapshot(run);
    const points = new Map<number, Snapshot>();
    try {
      await growTree(run, base, points);
      await interleave(run, points);
      const deepest = points.get(Math.max(...DEPTHS)) as Snapshot;
      return { ...guestParameters(base), extents: deepest.info.extents };
    } finally {
      for (const snapshot of points.values()) await snapshot.destroy();
    }
  },
};

export const live: BenchCase = {
  name: 'live',
  summary: `fork time with ${LIVE.join(', ')} clones alive, each of which has answered`,
  defaultN: 50,
  async measure(run) {
    await using engine = crowdEngine(Math.max(...LIVE));
    await using snapshot = await openSnapshot(run, engine);
    await warmUp(snapshot);
    const clones: BareFork[] = [];
    try {
      for (const count of LIVE) {
        const fresh: BareFork[] = [];
        await snapshot.prepareShells(count - clones.length + 1);
        await forkCrowd(snapshot, count - clones.length, fresh).finally(() =>
          clones.push(...fresh),
        );
        await Promise.all(fresh.map((clone) => clone.answer()));
        for (let i = 0; i < run.n; i++) await bareSample(run, count, snapshot);
        run.progress(`${count} alive`);
      }
    } finally {
      await Promise.all(clones.map((clone) => clone.destroy()));
    }
    addGrowth(run, LIVE);
    return guestParameters(snapshot);
  },
};

export const history: BenchCase = {
  name: 'history',
  summary: `fork time after ${HISTORY.join(', ')} forks in this process`,
  defaultN: 50,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    let done = 0;
    for (const count of HISTORY) {
      if (done === 0) await warmUp(snapshot);
      const missing = count - done;
      done += await forkAndDestroy(snapshot, (begun) => begun < missing);
      for (let i = 0; i < run.n; i++) await bareSample(run, count, snapshot);
      run.progress(`${count} forks done`);
    }
    addGrowth(run, HISTORY);
    return guestParameters(snapshot);
  },
};

/** Forks of forks; what is on the way to the points is let go of. */
async function growTree(
  run: CaseRun,
  base: Snapshot,
  points: Map<number, Snapshot>,
): Promise<void> {
  let parent = base;
  for (let level = 1; level <= Math.max(...DEPTHS); level++) {
    await using clone = await parent.fork();
    await clone.ping();
    const child = await clone.snapshot();
    if (parent !== base && !DEPTHS.includes(level - 1)) await parent.destroy();
    if (DEPTHS.includes(level)) points.set(level, child);
    parent = child;
  }
  run.progress(`a tree ${Math.max(...DEPTHS)} deep`);
}

/** The points take turns, so that a machine that gets slower or faster meanwhile does so for all. */
async function interleave(run: CaseRun, points: ReadonlyMap<number, Snapshot>): Promise<void> {
  for (const snapshot of points.values()) await warmUp(snapshot);
  for (let i = 0; i < run.n; i++) {
    for (const [point, snapshot] of points) await sample(run, point, snapshot);
    if ((i + 1) % 10 === 0) run.progress(`${i + 1} of ${run.n}`);
  }
  addGrowth(run, [...points.keys()]);
}

/** The first forks of a process and of a snapshot take longer than any later ones. */
async function warmUp(snapshot: Snapshot): Promise<void> {
  for (let round = 0; round < WARM_UP_ROUNDS; round++) {
    await using clone = await snapshot.fork();
    await clone.ping();
  }
}

async function sample(run: CaseRun, point: number, snapshot: Snapshot): Promise<void> {
  await using clone = await snapshot.fork();
  await clone.ping();
  run.samples.addMs(metric(point), forkedMs(clone.timings()));
}

/** The same without the library's queue, which would ask how much memory is left. */
async function bareSample(run: CaseRun, point: number, snapshot: Snapshot): Promise<void> {
  const start = now();
  const fork = await BareFork.of(snapshot);
  run.samples.addMs(metric(point), msSince(start));
  await fork.answer();
  await fork.destroy();
}

const metric = (point: number) => `fork_${point}_ms`;

function addGrowth({ samples }: CaseRun, points: readonly number[]): void {
  const medians = points.map((point) => samples.median(metric(point)));
  samples.add('growth', 'x', Math.max(...medians) / (medians[0] as number));
  const since = (median: number, index: number) =>
    median / Math.min(...medians.slice(0, index + 1));
  samples.add('growth_worst', 'x', Math.max(...medians.map(since)));
}
