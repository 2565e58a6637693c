// A branch of a guest at work: how long it stands still while what it has written is captured. The guest writes all of its
// pages between two branches; every branch has answered a ping.

import type { Snapshot } from '#src/index.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { Companion, companionSnapshot } from '../harness/companion.js';
import { guestParameters, openSnapshot } from './default-guest.js';

const DIRTY_PAGES = [1000, 16_384];
const NS_PER_MS = 1e6;

export const branch: BenchCase = {
  name: 'branch',
  summary: `pause of the source of a branch, at ${DIRTY_PAGES.join(' and ')} dirty pages`,
  defaultN: 20,
  async measure(run) {
    await using base = await openSnapshot(run);
    for (const pages of DIRTY_PAGES) {
      run.progress(`a guest with ${pages} pages to write`);
      await using snapshot = await companionSnapshot(base, pages);
      await measureBranches(run, snapshot, pages);
    }
    return guestParameters(base);
  },
};

async function measureBranches(run: CaseRun, snapshot: Snapshot, pages: number): Promise<void> {
  await using source = await snapshot.fork();
  using companion = await Companion.in(source);
  for (let i = 0; i < run.n; i++) {
    await companion.dirty(i + 1);
    const start = now();
    await using frozen = await source.snapshot();
    const snapshotMs = msSince(start);
    await using clone = await frozen.fork();
    await clone.ping();
    run.samples.addMs(`pause_${pages}_ms`, pauseMs(frozen));
    run.samples.addMs(`snapshot_${pages}_ms`, snapshotMs);
    run.samples.addMs(`branch_${pages}_ms`, msSince(start));
  }
}

function pauseMs(snapshot: Snapshot): number {
  const ns = snapshot.timings().find(({ stage }) => stage === 'pause')?.ns;
  if (ns === undefined) throw new Error('the snapshot has no timings');
  return ns / NS_PER_MS;
}
