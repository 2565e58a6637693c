// The memory budget: forks that do not fit wait their turn or are refused, and real memory is what counts.
import { expect, test } from 'vitest';
import { type Clone, Engine } from 'vmfork';
import {
  askOnce,
  COMPANION_PORT,
  destroyAll,
  eventually,
  inABusyProgram,
  startProgram,
  templateSnapshot,
} from '../helpers/kvm.js';

// Room for three clones of 1 to 1.66 MiB each, which is what the default guest takes.
const FOR_THREE = { memoryBudgetMiB: 5 };
const MIB = 1024 * 1024;
const refused = { code: 'VMF_NO_MEMORY', operation: 'fork' };

test('forks beyond the budget wait and go on in order as clones are destroyed; one is aborted', async () => {
  await using engine = new Engine({ ...FOR_THREE, onBudget: 'wait' });
  await using snapshot = await templateSnapshot(1, engine);
  const first = await Promise.all([0, 1, 2].map(() => snapshot.fork()));
  const order: string[] = [];
  const fork = async (hostname: string, signal?: AbortSignal) => {
    const clone = await snapshot.fork({ hostname, signal });
    order.push(hostname);
    return clone;
  };
  const controller = new AbortController();
  const waiting = [fork('four'), fork('five', controller.signal), fork('six')] as const;
  const aborted = expect(waiting[1]).rejects.toMatchObject({ code: 'VMF_ABORTED' });
  await Promise.all(first.map((clone) => clone.ping()));
  expect(engine.memory).toMatchObject({ clones: 3, waiting: 3 });
  controller.abort();
  await aborted;
  expect(engine.memory.waiting).toBe(2);
  await first[0]?.destroy();
  const fourth = await waiting[0];
  expect(engine.memory).toMatchObject({ clones: 3, waiting: 1 });
  await first[1]?.destroy();
  const sixth = await waiting[2];
  expect(order).toEqual(['four', 'six']);
  await Promise.all([fourth.ping(), sixth.ping()]);
  await destroyAll([fourth, sixth]);
});

test('by choice they are refused, and a failed fork gives its share back', async () => {
  await using engine = new Engine(FOR_THREE);
  await using snapshot = await templateSnapshot(1, engine);
  await expect(snapshot.fork({ count: 4 })).rejects.toMatchObject(refused);
  const late = inABusyProgram(() => snapshot.fork({ count: 3, identityTimeoutMs: 1 }));
  await expect(late).rejects.toMatchObject({ code: 'VMF_IDENTITY' });
  expect(engine.memory).toMatchObject({ clones: 0, chargedBytes: 0 });
  const clones = await snapshot.fork({ count: 3 });
  await expect(snapshot.fork()).rejects.toMatchObject(refused);
  await expect(snapshot.fork({ onBudget: 'wait', budgetTimeoutMs: 50 })).rejects.toMatchObject(
    refused,
  );
  await clones[0]?.destroy();
  await using again = await snapshot.fork();
  await again.ping();
});

test('a clone that has grown is charged for it', async () => {
  await using engine = new Engine({ memoryBudgetMiB: 5 });
  await using snapshot = await templateSnapshot(1, engine);
  const clone: Clone = await snapshot.fork();
  await clone.exec(['dd', 'if=/dev/zero', 'of=/tmp/fill', 'bs=1M', 'count=4']);
  const deadline = performance.now() + 10_000;
  // Forks have a clone or two measured each time.
  while (engine.memory.freeBytes > 0 && performance.now() < deadline) {
    await snapshot.fork({ onBudget: 'refuse' }).then(
      (other) => other.destroy(),
      () => {},
    );
  }
  await expect(snapshot.fork()).rejects.toMatchObject(refused);
  await clone.destroy();
  await (await snapshot.fork()).destroy();
});

test('without a fixed budget it is what the machine has left', async () => {
  await using engine = new Engine();
  await using snapshot = await templateSnapshot(1, engine);
  const { freeBytes, estimateBytes } = engine.memory;
  expect(freeBytes).toBeGreaterThan(0);
  const most = Math.floor(freeBytes / estimateBytes);
  if (most < 9000) {
    await expect(snapshot.fork({ count: 10_000 })).rejects.toMatchObject(refused);
  }
  await using clone = await snapshot.fork();
  await clone.ping();
});

test('a branch of more than the budget has room for is refused or waits, and its source goes on', async () => {
  await using engine = new Engine({ memoryBudgetMiB: 20 });
  await using snapshot = await templateSnapshot(1, engine);
  const source = await snapshot.fork();
  await startProgram(source, 'companion', [String(COMPANION_PORT), String((4 * MIB) / 4096)]);
  await askOnce(source, 'fill 7');
  const before = await askOnce(source, 'check 7');
  // Something else takes what is left.
  const other = await snapshot.fork();
  const room = await engine.budget.reserve(10 * MIB, true);
  const refusedToFreeze = { code: 'VMF_NO_MEMORY', operation: 'snapshot' };
  await expect(source.snapshot()).rejects.toMatchObject(refusedToFreeze);
  await expect(source.fork()).rejects.toMatchObject(refusedToFreeze);
  await expect(source.fork({ onBudget: 'wait', budgetTimeoutMs: 50 })).rejects.toMatchObject(
    refusedToFreeze,
  );
  expect(source.state).toBe('running');
  const waiting = source.fork({ onBudget: 'wait' });
  expect(await askOnce(source, 'check 7')).toBe(before); // It runs on meanwhile.
  expect(engine.memory.waiting).toBe(1);
  room.release();
  const branch = await waiting;
  // Both have it, once: it counts until the last of them is gone.
  expect(engine.memory.layerBytes).toBeGreaterThan(4 * MIB);
  expect(await askOnce(branch, 'check 7')).toBe(before);
  await source.destroy();
  expect(engine.memory.layerBytes).toBeGreaterThan(4 * MIB);
  await destroyAll([other, branch]);
  const isBack = async () => engine.memory.layerBytes === 0;
  expect(await eventually(isBack, 10_000)).toBe(true);
  expect(engine.memory).toMatchObject({ clones: 0, chargedBytes: 0, waiting: 0 });
});

test('closing the engine sends those who wait away', async () => {
  const engine = new Engine({ memoryBudgetMiB: 2, onBudget: 'wait' });
  const snapshot = await templateSnapshot(1, engine);
  await snapshot.fork();
  const waiting = expect(snapshot.fork()).rejects.toMatchObject({ code: 'VMF_STATE' });
  await engine.close();
  await waiting;
  await snapshot.destroy();
  await expect(async () => new Engine({ memoryBudgetMiB: 0 })).rejects.toMatchObject({
    code: 'VMF_OPTIONS',
  });
});
