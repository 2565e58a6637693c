// Branches of guests that are hard at work: each is one moment of all processors and all memory, and the work goes on everywhere.
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Clone, Snapshot, Vm } from 'vmfork';
import { eventually, layersHeld, scale, startProgram, templateSnapshot } from '../helpers/kvm.js';

const PAGES = 64;
const STATE = '/tmp/wave.state';
const GO_ON_MS = 60_000;
let base: Snapshot;

beforeAll(async () => {
  base = await templateSnapshot();
});
afterAll(() => base?.destroy());

/** How far the program `wave` of a guest has come. */
async function progress(vm: Vm) {
  const state = await vm.readFile(STATE);
  const [led, followed, ledWrong, followedWrong] = [0, 8, 16, 24].map((at) =>
    state.readBigUInt64LE(at),
  ) as [bigint, bigint, bigint, bigint];
  return { led, followed, wrong: ledWrong + followedWrong };
}

/** Both processes go through all of their memory again, and find it as they left it. */
async function expectInOrder(vm: Vm): Promise<void> {
  const before = await progress(vm);
  const hasGoneOn = async () => {
    const { led, followed } = await progress(vm);
    return led > before.led + 1n && followed > before.followed + 1n;
  };
  expect(await eventually(hasGoneOn, GO_ON_MS)).toBe(true);
  expect((await progress(vm)).wrong).toBe(0n);
}

/** Clones that stand still until they are looked at: busy guests only delay each other. */
async function still(forking: Promise<Clone | Clone[]>): Promise<Clone[]> {
  const clones = [await forking].flat();
  await Promise.all(clones.map((clone) => clone.pause()));
  return clones;
}

test.each([
  { vcpus: 1, at: 'on one processor' },
  { vcpus: 2, at: 'on two processors' },
])(
  'a guest that writes at full speed $at can be branched many times at once',
  async ({ vcpus }) => {
    const before = layersHeld();
    await using template = await templateSnapshot(vcpus);
    await using source = await template.fork();
    await startProgram(source, 'wave', [STATE, String(PAGES)]);
    for (let round = 0; round < scale({ full: 3, nested: 1, interpreted: 1 }); round++) {
      const frozen = await source.snapshot();
      const branch = async () => {
        await using other = await source.snapshot();
        return await other.fork();
      };
      const forking = [frozen.fork({ count: 2 }), source.fork(), branch()];
      const clones = (await Promise.all(forking.map(still))).flat();
      expect(layersHeld()).toBeGreaterThan(before);
      await frozen.destroy();
      await expectInOrder(source);
      await source.pause();
      for (const clone of clones) {
        await clone.resume();
        await expectInOrder(clone);
        await clone.destroy();
      }
      await source.resume();
    }
    await source.destroy();
    await template.destroy();
    expect(await eventually(async () => layersHeld() === before, 10_000)).toBe(true);
  },
);
