// The fork itself: from the call until the machine's state is restored and its vCPU runs; with an empty pool, with shells made
// ahead, with recycled ones, and beside them the floor and the naive way of bench/floor. Every clone that is counted has
// answered a ping afterwards, outside the time: a fork whose guest never ran would be no fork.

import { type Clone, Engine, Snapshot } from '#src/index.js';
import { forkedMs } from '#src/kvm/stage-clock.js';
import { ForkFloor } from '../floor/floor.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { guestParameters, openSnapshot } from './default-guest.js';
import { addStages, restoredMs } from './stages.js';

/** Ways take turns of so many samples, so that a drift of the machine hits them all alike. */
const BLOCK = 10;
const WARM_UP_ROUNDS = 3;

export const fork: BenchCase = {
  name: 'fork',
  summary: 'fork: call to running vCPU, each stage; empty pool, new and recycled shells, the floor',
  defaultN: 200,
  async measure(run) {
    await using snapshot = await openSnapshot(run);
    run.progress('the floor: building it');
    await using floor = await ForkFloor.prepare(snapshot);
    await using recycled = await openWith(floor, 2 * BLOCK);
    await using cold = await openWith(floor, 0);
    for (let done = 0; done < run.n; done += BLOCK) {
      const count = Math.min(BLOCK, run.n - done);
      await inTurn(snapshot, count, (clone) => addDefault(run, clone));
      await inTurn(recycled.snapshot, count, (clone) => add(run, 'recycled_ms', clone));
      await measureNew(run, floor, count);
      await inTurn(cold.snapshot, count, (clone) => add(run, 'cold_ms', clone));
      await addFloor(run, floor, count);
      run.progress(`${done + count} of ${run.n}`);
    }
    addRatios(run);
    return { ...guestParameters(snapshot), block: BLOCK };
  },
};

/** A snapshot in an engine of its own. */
class Opened implements AsyncDisposable {
  readonly engine: Engine;
  readonly snapshot: Snapshot;

  constructor(engine: Engine, snapshot: Snapshot) {
    this.engine = engine;
    this.snapshot = snapshot;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.snapshot.destroy();
    await this.engine.close();
  }
}

async function openWith({ saved }: ForkFloor, kept: number): Promise<Opened> {
  const engine = new Engine({ shells: { ready: 0, kept } });
  return new Opened(engine, await Snapshot.load(saved, { engine }));
}

/** One clone after the other; where shells are kept each forks into the shell of the one before. */
async function inTurn(
  snapshot: Snapshot,
  count: number,
  sample: (clone: Clone) => void,
): Promise<void> {
  for (let i = -WARM_UP_ROUNDS; i < count; i++) {
    await using clone = await snapshot.fork();
    await clone.ping();
    if (i >= 0) sample(clone);
  }
}

/** Shells that nobody has used: of a new engine, whose clones all live until the last one has forked. */
async function measureNew(run: CaseRun, floor: ForkFloor, count: number): Promise<void> {
  await using opened = await openWith(floor, WARM_UP_ROUNDS + count);
  const { engine, snapshot } = opened;
  await snapshot.prepareShells(WARM_UP_ROUNDS + count);
  const { built } = engine.shells;
  const clones: Clone[] = [];
  try {
    for (let i = -WARM_UP_ROUNDS; i < count; i++) {
      const clone = await snapshot.fork();
      clones.push(clone);
      await clone.ping();
      if (i >= 0) add(run, 'pooled_ms', clone);
    }
    const now = engine.shells;
    if (now.built !== built || now.reused > 0) throw new Error('a shell was not from the pool');
  } finally {
    await Promise.all(clones.map((clone) => clone.destroy()));
  }
}

function add(run: CaseRun, metric: string, clone: Clone): void {
  run.samples.addMs(metric, forkedMs(clone.timings()));
}

/** As a program has it that sets nothing: recycled shells, and new ones made in the background. */
function addDefault(run: CaseRun, clone: Clone): void {
  add(run, 'fork_ms', clone);
  run.samples.addMs('restored_ms', restoredMs(clone.timings()));
  addStages(run.samples, clone.timings());
}

async function addFloor(run: CaseRun, floor: ForkFloor, count: number): Promise<void> {
  for (const [metric, samples] of Object.entries((await floor.sample(count)) ?? {}))
    for (const sample of samples) run.samples.addMs(metric, sample);
}

function addRatios({ samples }: CaseRun): void {
  if (!samples.has('floor_ms')) return;
  const recycledMs = samples.median('recycled_ms');
  samples.add('vs_naive', 'x', samples.median('naive_ms') / recycledMs);
  samples.add('vs_floor', 'x', recycledMs / samples.median('floor_ms'));
}
