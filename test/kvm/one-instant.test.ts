// Memory and disk of a branch belong to one point in time, whatever is under way.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import type { DiskSource } from '#src/kvm/disk-source.js';
import { destroyAll, eventually, startProgram, templateSnapshot } from '../helpers/kvm.js';

const PROGRAM = '/tmp/sequence';
const MEMORY = '/tmp/sequence.memory';
const DISK = '/dev/vdc';
const ROUNDS = 3;
const DEPTH = 2;
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
});
afterAll(() => snapshot?.destroy());

/** What the writer of a guest has left in memory and on disk. */
async function numbers(clone: Clone): Promise<{ memory: number; disk: number; missing: number }> {
  const { stdout, exitCode } = await clone.exec([PROGRAM, MEMORY, DISK, 'read']);
  expect(exitCode).toBe(0);
  const [memory = Number.NaN, disk = Number.NaN, missing] = stdout.trim().split(' ').map(Number);
  return { memory, disk, missing: missing ?? Number.NaN };
}

/** A clone whose writer has begun on a disk of 1 MiB. */
async function startWriter(disk: DiskSource): Promise<Clone> {
  const source = await snapshot.fork();
  await source.attachDisk(1, disk);
  const grown = async () => (await source.readFile('/sys/block/vdc/size')).toString() === '2048\n';
  expect(await eventually(grown, 30_000)).toBe(true);
  await startProgram(source, 'sequence', [MEMORY, DISK]);
  return source;
}

/** In all of them the writer has come equally far in memory and on disk. Returns how far. */
async function expectOneInstant(clones: readonly Clone[]): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (const clone of clones) {
    const { memory, disk, missing } = await numbers(clone);
    expect(memory).toBeGreaterThan(0);
    // Memory is written first; a disk of another moment would lack numbers, or have later ones.
    expect([0, 1]).toContain(memory - disk);
    expect(missing).toBe(0);
    least = Math.min(least, memory);
  }
  return least;
}

const file = join(mkdtempSync(join(tmpdir(), 'vmfork-instant-')), 'disk');
writeFileSync(file, Buffer.alloc(1 << 20));
afterAll(() => rmSync(dirname(file), { recursive: true }));

test.each([
  ['a scratch disk', { scratchBytes: 1 << 20 }],
  ["the caller's file", { path: file, readOnly: false }],
])(
  'a writer of numbers has come equally far in memory and on %s, in every branch',
  async (_, disk) => {
    await using source = await startWriter(disk);
    for (let round = 0; round < ROUNDS; round++) {
      await using branch = await source.snapshot();
      const clones = await branch.fork({ count: 2 });
      try {
        await expectOneInstant(clones);
      } finally {
        await destroyAll(clones);
      }
    }
  },
);

test('so it has in branches of branches, which leave those they stand on as they were', async () => {
  const clones: Clone[] = [await startWriter({ scratchBytes: 1 << 20 })];
  const frozen: { snapshot: Snapshot; memory?: number }[] = [];
  const branchOfLast = async (memory?: number) => {
    const branch = await (clones.at(-1) as Clone).snapshot();
    frozen.push({ snapshot: branch, ...(memory !== undefined && { memory }) });
    clones.push(await branch.fork());
  };
  try {
    for (let depth = 0; depth < DEPTH; depth++) {
      await branchOfLast();
      // Of a writer that stands still it is known how far it had come when it was frozen.
      await branchOfLast(await expectOneInstant(clones.slice(-1)));
      await (clones.at(-1) as Clone).exec([PROGRAM, MEMORY, DISK, 'go']);
    }
    for (const { snapshot: branch, memory } of frozen) {
      // All later generations have written since.
      await using later = await branch.fork();
      const reached = await expectOneInstant([later]);
      if (memory !== undefined) expect(reached).toBe(memory);
    }
    await expectOneInstant(clones);
  } finally {
    await destroyAll(clones);
    for (const { snapshot: branch } of frozen) await branch.destroy();
  }
});
