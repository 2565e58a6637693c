// Memory and disk of a branch belong to one point in time, whatever is under way.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import { destroyAll, eventually, templateSnapshot } from '../helpers/kvm.js';
import { buildTestPrograms } from './programs/build.mjs';

const PROGRAM = '/tmp/sequence';
const MEMORY = '/tmp/sequence.memory';
const DISK = '/dev/vdc';
const ROUNDS = 3;
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
});
afterAll(() => snapshot?.destroy());

/** What the writer of a guest has left in memory and on disk. */
async function numbers(clone: Clone): Promise<{ memory: number; disk: number; missing: number }> {
  // It goes on in each clone: it has to stand still to be read.
  await clone.exec(['killall', '-STOP', 'sequence']);
  const { stdout, exitCode } = await clone.exec([PROGRAM, MEMORY, DISK, 'read']);
  expect(exitCode).toBe(0);
  const [memory = Number.NaN, disk = Number.NaN, missing] = stdout.trim().split(' ').map(Number);
  return { memory, disk, missing: missing ?? Number.NaN };
}

test('a writer of numbers has come equally far in memory and on disk, in every branch', async () => {
  await using source = await snapshot.fork();
  const program = readFileSync(join(buildTestPrograms(), 'sequence'));
  await source.writeFile(PROGRAM, program, { mode: 0o755 });
  await source.attachDisk(1, { scratchBytes: 1 << 20 });
  const grown = async () => (await source.readFile('/sys/block/vdc/size')).toString() === '2048\n';
  expect(await eventually(grown, 30_000)).toBe(true);
  source.spawn([PROGRAM, MEMORY, DISK]);
  for (let round = 0; round < ROUNDS; round++) {
    await using branch = await source.snapshot();
    const clones = await branch.fork({ count: 2 });
    try {
      for (const clone of clones) {
        const { memory, disk, missing } = await numbers(clone);
        expect(memory).toBeGreaterThan(0);
        // Memory is written first; a disk of another moment would lack numbers, or have later ones.
        expect([0, 1]).toContain(memory - disk);
        expect(missing).toBe(0);
      }
    } finally {
      await destroyAll(clones);
    }
  }
});
