// Snapshots on disk: saving the last of a chain of differences, loading the chain, and the first fork of what was loaded.
// Everything is in the page cache; each clone that is counted has answered a ping afterwards, outside the time.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Snapshot } from '#src/index.js';
import { forkedMs } from '#src/kvm/stage-clock.js';
import type { BenchCase, CaseRun } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';
import { guestParameters, openSnapshot, repeat } from './default-guest.js';

const DEPTH = 8;
// Enough that no later level can have written to all of it by chance, which would drop the level from the chain.
const LEVEL_BYTES = 256 * 1024;

export const saveLoad: BenchCase = {
  name: 'save-load',
  summary: `save and load a chain of ${DEPTH} differences, and fork it for the first time`,
  defaultN: 50,
  async measure(run) {
    await using root = await openSnapshot(run);
    const directory = await mkdtemp(join(tmpdir(), 'vmfork-bench-'));
    try {
      await using base = await saveChain(run, root, directory);
      await using clone = await base.fork();
      await clone.writeFile('/tmp/last', Buffer.alloc(LEVEL_BYTES, DEPTH));
      await using last = await clone.snapshot();
      const path = join(directory, 'last');
      await repeat(run, (counts) => measureRound(run, { last, base, path }, counts));
    } finally {
      await rm(directory, { recursive: true });
    }
    return { ...guestParameters(root), depth: DEPTH };
  },
};

/** Saves a chain that lacks its last level; resolves with its end. */
async function saveChain(run: CaseRun, root: Snapshot, directory: string): Promise<Snapshot> {
  const start = now();
  await root.save(join(directory, '0'));
  run.samples.addMs('save_whole_ms', msSince(start));
  let last = root;
  for (let level = 1; level < DEPTH; level++) {
    await using clone = await last.fork();
    await clone.writeFile(`/tmp/${level}`, Buffer.alloc(LEVEL_BYTES, level));
    const next = await clone.snapshot();
    await next.save(join(directory, String(level)), { base: last });
    if (last !== root) await last.destroy();
    last = next;
  }
  return last;
}

async function measureRound(
  run: CaseRun,
  { last, base, path }: { last: Snapshot; base: Snapshot; path: string },
  counts: boolean,
): Promise<void> {
  const saving = now();
  const saved = await last.save(path, { base });
  const saveMs = msSince(saving);
  if (saved.layers !== DEPTH + 1) throw new Error(`a chain of ${saved.layers} directories`);
  const loading = now();
  await using loaded = await Snapshot.load(path);
  const loadMs = msSince(loading);
  await using clone = await loaded.fork();
  await clone.ping();
  await rm(path, { recursive: true });
  if (!counts) return;
  run.samples.addMs('save_ms', saveMs);
  run.samples.addMs('load_ms', loadMs);
  run.samples.addMs('first_fork_ms', loadMs + forkedMs(clone.timings()));
}
