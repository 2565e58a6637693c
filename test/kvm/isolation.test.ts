// What one clone writes, no other clone sees: not its siblings, not its parent, not those forked later.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot } from 'vmfork';
import {
  askOnce,
  COMPANION_PORT,
  Companion,
  destroyAll,
  fewAtATime,
  startProgram,
  templateSnapshot,
} from '../helpers/kvm.js';

const CLONES = 100;
const PAGES = 64;
let base: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
});
afterAll(() => base?.destroy());

async function askAll(clones: Clone[], request: (index: number) => string): Promise<string[]> {
  return fewAtATime(clones, (clone, index) => askOnce(clone, request(index)));
}

test('a write in one clone is seen by no other, both directions', async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'companion', [String(COMPANION_PORT), String(PAGES)]);
  const inParent = await Companion.in(parent);
  await inParent.ask('fill 1000000');
  await using snapshot = await parent.snapshot();
  const clones = await snapshot.fork({ count: CLONES });

  // Everybody starts from what the parent had.
  expect(new Set(await askAll(clones, () => 'check 1000000'))).toEqual(new Set(['same']));
  // The parent's later writes reach nobody.
  expect(await inParent.ask('fill 2000000')).toBe('filled');
  expect(new Set(await askAll(clones, () => 'check 1000000'))).toEqual(new Set(['same']));
  // Each writes its own pattern over every page; then each still has exactly its own.
  expect(new Set(await askAll(clones, (index) => `fill ${index + 1}`))).toEqual(
    new Set(['filled']),
  );
  expect(new Set(await askAll(clones, (index) => `check ${index + 1}`))).toEqual(new Set(['same']));
  // Neither the parent nor a later clone saw any of it.
  expect(await inParent.ask('check 2000000')).toBe('same');
  await using late = await snapshot.fork();
  expect(await askOnce(late, 'check 1000000')).toBe('same');
  inParent.close();
  await destroyAll(clones);
});

test('files that a clone writes are its own', async () => {
  const clones = await base.fork({ count: 8 });
  await Promise.all(clones.map((clone, index) => clone.writeFile('/tmp/mine', `clone ${index}`)));
  const contents = await Promise.all(clones.map((clone) => clone.readFile('/tmp/mine')));
  expect(contents.map(String)).toEqual(clones.map((_, index) => `clone ${index}`));
  await using late = await base.fork();
  await expect(late.readFile('/tmp/mine')).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
    errno: 2,
  });
  await destroyAll(clones);
});

test('memory that a clone writes is counted as its own', async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'companion', [String(COMPANION_PORT), String(512)]);
  await using snapshot = await parent.snapshot();
  await using clone = await snapshot.fork();
  const companion = await Companion.in(clone);
  const before = await clone.memory();
  await companion.ask('fill 5');
  const after = await clone.memory();
  const grown = after.privateBytes - before.privateBytes;
  expect(grown).toBeGreaterThanOrEqual(500 * 4096);
  expect(grown).toBeLessThan(700 * 4096);
  companion.close();
});
