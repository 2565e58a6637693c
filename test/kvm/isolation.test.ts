// What one clone writes, no other clone sees: not its siblings, not its parent, not those forked later.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Snapshot } from 'vmfork';
import {
  askOnce,
  COMPANION_PORT,
  Companion,
  Herd,
  scale,
  startProgram,
  templateSnapshot,
} from '../helpers/kvm.js';

// The emulated processor now and then loses a guest's registers on its way out of it (test/nested/suite.mjs), and
// most surely while many start and are paused: a triple fault, or a clone that never answers.
const CLONES = scale({ full: 100, nested: 20, interpreted: 100 });
const PAGES = 32;
let base: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
});
afterAll(() => base?.destroy());

const only = (...answers: string[]) => new Set(answers);

test(`a write in one of ${CLONES} clones is seen by no other, nor by parent or later clones, and back`, async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'companion', [String(COMPANION_PORT), String(PAGES)]);
  const inParent = await Companion.in(parent);
  await inParent.ask('fill 1000000');
  await using snapshot = await parent.snapshot();
  await using herd = await Herd.of(snapshot, CLONES);

  // The parent's later writes reach nobody: each starts from what the parent had then, and writes over every page.
  expect(await inParent.ask('fill 2000000')).toBe('filled');
  const started = await herd.each(async (clone, index) => {
    const companion = await Companion.in(clone);
    const before = await companion.ask('check 1000000');
    const after = await companion.ask(`fill ${index + 1}`);
    companion.close();
    return `${before} ${after}`;
  });
  expect(new Set(started)).toEqual(only('same filled'));
  // Each still has exactly its own pattern.
  expect(new Set(await herd.ask((index) => `check ${index + 1}`))).toEqual(only('same'));
  // Neither the parent nor a later clone saw any of it.
  expect(await inParent.ask('check 2000000')).toBe('same');
  await using late = await snapshot.fork();
  expect(await askOnce(late, 'check 1000000')).toBe('same');
  inParent.close();
});

test('files that a clone writes are its own', async () => {
  await using herd = await Herd.of(base, 8);
  await herd.each((clone, index) => clone.writeFile('/tmp/mine', `clone ${index}`));
  const contents = await herd.each((clone) => clone.readFile('/tmp/mine'));
  expect(contents.map(String)).toEqual(herd.clones.map((_, index) => `clone ${index}`));
  await using late = await base.fork();
  await expect(late.readFile('/tmp/mine')).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
    errno: 2,
  });
});

test('memory that a clone writes is counted as its own', async () => {
  await using parent = await base.fork();
  await startProgram(parent, 'companion', [String(COMPANION_PORT), '512']);
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
