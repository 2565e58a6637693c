// Many rounds leave the process as it was.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Snapshot } from 'vmfork';
import {
  type Footprint,
  footprint,
  inABusyProgram,
  scale,
  templateSnapshot,
} from '../helpers/kvm.js';

const MIB = 1024 * 1024;
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
});
afterAll(() => snapshot?.destroy());

/** So many at a time. */
async function rounds(count: number, work: () => Promise<void>, atOnce = 1): Promise<Footprint> {
  const share = async () => {
    for (let round = 0; round < count / atOnce; round++) await work();
  };
  await Promise.all(Array.from({ length: atOnce }, share));
  globalThis.gc?.();
  return footprint();
}

function expectSame(before: Footprint, after: Footprint): void {
  expect(after.files - before.files).toBeLessThanOrEqual(2);
  expect(after.threads - before.threads).toBeLessThanOrEqual(1);
  expect(after.maps - before.maps).toBeLessThanOrEqual(30);
  expect((after.residentBytes - before.residentBytes) / MIB).toBeLessThan(40);
}

const total = scale({ full: 200, nested: 40, interpreted: 100 });

test(`${total} rounds of fork, command and destroy leave files, threads, mappings and memory where they were`, async () => {
  const round = async () => {
    await using clone = await snapshot.fork();
    await clone.exec(['true']);
  };
  // One clone keeps one processor busy.
  const before = await rounds(20, round, 2);
  const after = await rounds(total, round, 2);
  expectSame(before, after);
});

test('so do rounds of forks of forks, sockets and failures', async () => {
  const round = async () => {
    await using clone = await snapshot.fork();
    await clone.connect(4).catch(() => {});
    clone.listen(5);
    await using child = await clone.snapshot();
    await using grandchild = await child.fork();
    await grandchild.ping();
    await inABusyProgram(() => snapshot.fork({ identityTimeoutMs: 1 })).catch(() => {});
  };
  const before = await rounds(5, round);
  const after = await rounds(20, round);
  expectSame(before, after);
});
