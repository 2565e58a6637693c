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

async function rounds(count: number, work: () => Promise<void>): Promise<Footprint> {
  for (let round = 0; round < count; round++) await work();
  globalThis.gc?.();
  return footprint();
}

function expectSame(before: Footprint, after: Footprint): void {
  expect(after.files - before.files).toBeLessThanOrEqual(2);
  expect(after.threads - before.threads).toBeLessThanOrEqual(1);
  expect(after.maps - before.maps).toBeLessThanOrEqual(30);
  expect((after.residentBytes - before.residentBytes) / MIB).toBeLessThan(40);
}

const total = scale({ full: 200, nested: 40, interpreted: 200 });

test(`${total} rounds of fork, command and destroy leave files, threads, mappings and memory where they were`, async () => {
  const round = async () => {
    await using clone = await snapshot.fork();
    await clone.exec(['true']);
  };
  const before = await rounds(20, round);
  const after = await rounds(total, round);
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
