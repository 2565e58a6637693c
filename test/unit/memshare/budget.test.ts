import { availableParallelism } from 'node:os';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { VmforkError } from '#src/errors.js';
import type { MemoryRoom } from '#src/memshare/available.js';
import { MemoryBudget } from '#src/memshare/budget.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const refused = { code: 'VMF_NO_MEMORY', operation: 'fork' };
const gaugeOf = (read: () => MemoryRoom) => ({ read, lookForAbsent() {}, close() {} });
/** As a clone that is forked and takes so much guest memory of its own. */
const measured = (privateMiB: number) => () => Promise.resolve(privateMiB * MIB);
/** Room for three at the first estimate of 1.5 MiB. */
const forThree = (onBudget: 'wait' | 'refuse') =>
  new MemoryBudget({ fixedBytes: 5 * MIB, onBudget });

async function settled<T>(promise: Promise<T>): Promise<boolean> {
  const pending = {};
  await new Promise(setImmediate);
  return (await Promise.race([promise, Promise.resolve(pending)])) !== pending;
}

afterEach(() => vi.restoreAllMocks());

describe('a fixed budget', () => {
  test('refuses what does not fit, and lets in again what was released', async () => {
    const budget = forThree('refuse');
    const [first] = await budget.admit(1);
    await budget.admit(2);
    expect(budget.state).toMatchObject({ clones: 3, chargedBytes: 4.5 * MIB, waiting: 0 });
    await expect(budget.admit(1)).rejects.toMatchObject(refused);
    first?.release();
    first?.release();
    expect(budget.state.clones).toBe(2);
    await budget.admit(1);
    await expect(budget.admit(1)).rejects.toMatchObject(refused);
  });

  test('lets those who wait in as others go, in the order in which they came', async () => {
    const budget = forThree('wait');
    const charges = await budget.admit(3);
    const order: number[] = [];
    const waiting = [0, 1].map((index) => budget.admit(1).then(() => order.push(index)));
    expect(budget.state.waiting).toBe(2);
    charges[0]?.release();
    await waiting[0];
    expect(order).toEqual([0]);
    expect(budget.state.waiting).toBe(1);
    charges[1]?.release();
    await Promise.all(waiting);
    expect(order).toEqual([0, 1]);
  });

  test('nobody overtakes, also who would fit; who gives up lets the next pass', async () => {
    const budget = forThree('wait');
    await budget.admit(2);
    const controller = new AbortController();
    const two = budget.admit(2, { signal: controller.signal });
    const one = budget.admit(1);
    expect(await settled(one)).toBe(false);
    await expect(budget.admit(1, { onBudget: 'refuse' })).rejects.toMatchObject(refused);
    controller.abort();
    await expect(two).rejects.toMatchObject({ code: 'VMF_ABORTED', operation: 'fork' });
    expect(await one).toHaveLength(1);
  });

  test('one release lets in as many as fit, and not one more', async () => {
    const budget = forThree('wait');
    const [a, b, c] = await budget.admit(3);
    const waiting = Array.from({ length: 4 }, () => budget.admit(1));
    for (const charge of [a, b, c]) charge?.release();
    await Promise.all(waiting.slice(0, 3));
    expect(budget.state).toMatchObject({ clones: 3, waiting: 1 });
    budget.close(new VmforkError('VMF_STATE', 'closed'));
    await expect(waiting[3]).rejects.toMatchObject({ code: 'VMF_STATE' });
    await expect(budget.admit(1)).rejects.toMatchObject({ code: 'VMF_STATE' });
  });

  test('a wait ends with VMF_NO_MEMORY in time, and what can never fit does not wait', async () => {
    const budget = forThree('wait');
    await budget.admit(3);
    await expect(budget.admit(1, { timeoutMs: 20 })).rejects.toMatchObject(refused);
    await expect(budget.admit(4)).rejects.toMatchObject(refused);
    budget.close(new VmforkError('VMF_STATE'));
  });

  test('clones that grow are charged what they were found to take', async () => {
    const budget = forThree('refuse');
    let privateMiB = 0.5;
    const grow = () => Promise.resolve(privateMiB * MIB);
    for (const charge of await budget.admit(1)) charge.settle(grow);
    privateMiB = 6;
    await new Promise((resolve) => setTimeout(resolve, 260)); // A measurement holds for 250 ms.
    for (const charge of await budget.admit(1)) charge.settle(measured(0.5));
    await new Promise(setImmediate);
    expect(budget.state.chargedBytes).toBeGreaterThan(7 * MIB);
    expect(budget.state.estimateBytes).toBeGreaterThan(2 * MIB);
    await expect(budget.admit(1)).rejects.toMatchObject(refused);
  });
});

describe('what is frozen', () => {
  test('is let in beforehand, in turn, and given back', async () => {
    const budget = forThree('wait');
    const [charge] = await budget.admit(1);
    const room = await budget.reserve(3 * MIB, true);
    expect(budget.state).toMatchObject({ chargedBytes: 4.5 * MIB, layerBytes: 0 });
    const next = budget.reserve(3 * MIB, true);
    expect(await settled(next)).toBe(false);
    await expect(budget.reserve(1 * MIB, true, { onBudget: 'refuse' })).rejects.toMatchObject({
      code: 'VMF_NO_MEMORY',
      operation: 'snapshot',
    });
    room.release();
    room.release();
    (await next).release();
    charge?.release();
    expect(budget.state).toMatchObject({ clones: 0, chargedBytes: 0, waiting: 0 });
    await expect(budget.reserve(6 * MIB, true)).rejects.toMatchObject({ code: 'VMF_NO_MEMORY' });
    (await budget.reserve(6 * MIB, false)).release(); // A template's is no clone's.
  });

  test('counts as long as the engine says so', async () => {
    let layerBytes = 4 * MIB;
    const options = { fixedBytes: 5 * MIB, onBudget: 'wait' as const };
    const budget = new MemoryBudget({ ...options, readLayerBytes: () => layerBytes });
    expect(budget.state).toMatchObject({ chargedBytes: 4 * MIB, layerBytes: 4 * MIB });
    const waiting = budget.admit(1);
    expect(await settled(waiting)).toBe(false);
    layerBytes = 0;
    budget.expectRoom();
    expect(await waiting).toHaveLength(1);
  });

  test('must be there, whatever the budget says', async () => {
    const room = { availableBytes: 8 * MIB, totalBytes: 60 * MIB };
    const options = { fixedBytes: 50 * MIB, onBudget: 'refuse' as const };
    const budget = new MemoryBudget({ ...options, gauge: gaugeOf(() => room) });
    expect(budget.state.freeBytes).toBe(5 * MIB);
    for (const ofClones of [true, false]) {
      await expect(budget.reserve(6 * MIB, ofClones)).rejects.toMatchObject({
        code: 'VMF_NO_MEMORY',
      });
    }
    await expect(budget.admit(4)).rejects.toMatchObject(refused);
    const under = await budget.reserve(4 * MIB, false);
    await expect(budget.admit(1)).rejects.toMatchObject(refused);
    room.availableBytes = 4 * MIB;
    under.release(); // The kernel is asked again: it knows by now.
    expect(budget.state.freeBytes).toBe(1 * MIB);
  });
});

describe('without a fixed budget', () => {
  const hostWith = (room: { availableBytes: number; totalBytes: number }) =>
    new MemoryBudget({ fixedBytes: null, onBudget: 'refuse', gauge: gaugeOf(() => room) });

  test('a twentieth of all memory stays free, and forks under way are taken off', async () => {
    const budget = hostWith({ availableBytes: 8 * MIB, totalBytes: 60 * MIB });
    expect(budget.state.freeBytes).toBe(5 * MIB);
    await budget.admit(3);
    expect(budget.state.freeBytes).toBe(0.5 * MIB);
    await expect(budget.admit(1)).rejects.toMatchObject(refused);
  });

  test('what the kernel counts by now is not taken off a second time', async () => {
    const room = { availableBytes: 8 * MIB, totalBytes: 60 * MIB };
    const budget = hostWith(room);
    for (const charge of await budget.admit(3)) charge.settle(measured(0.5));
    room.availableBytes = 6.5 * MIB;
    await new Promise((resolve) => setTimeout(resolve, 60)); // A reading holds for 50 ms.
    expect(budget.state.freeBytes).toBe(3.5 * MIB);
  });

  test.each([
    {
      what: 'that left more than anybody can have taken since holds',
      availableGiB: 10 * availableParallelism(),
      reads: 1,
    },
    { what: 'that left less is old after 50 ms', availableGiB: 1, reads: 2 },
  ])('a reading $what', async ({ availableGiB, reads }) => {
    let count = 0;
    const gauge = gaugeOf(() => {
      count++;
      return { availableBytes: availableGiB * GIB, totalBytes: 4 * GIB };
    });
    const budget = new MemoryBudget({ fixedBytes: null, onBudget: 'refuse', gauge });
    await budget.admit(1);
    vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 1000);
    await budget.admit(1);
    expect(count).toBe(reads);
    // When nobody waits for it, it is read in any case.
    for (const charge of await budget.admit(1)) charge.settle(measured(0.5));
    expect(count).toBe(2);
  });

  test('asks no more when it is closed', async () => {
    let count = 0;
    const gauge = gaugeOf(() => ({ availableBytes: (8 + ++count) * GIB, totalBytes: 60 * GIB }));
    const budget = new MemoryBudget({ fixedBytes: null, onBudget: 'refuse', gauge });
    const [charge] = await budget.admit(1);
    budget.close(new VmforkError('VMF_STATE'));
    vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 1000);
    charge?.settle(measured(0.5));
    expect(budget.state.clones).toBe(1);
    expect(count).toBe(1);
  });

  test('memory that somebody else gave back is found while a fork waits', async () => {
    const room = { availableBytes: 0, totalBytes: 60 * MIB };
    const budget = hostWith(room);
    const waiting = budget.admit(1, { onBudget: 'wait' });
    room.availableBytes = 30 * MIB;
    expect(await waiting).toHaveLength(1);
  });

  test('while the kernel cannot be asked, its last answer counts', async () => {
    const noFiles = new VmforkError('VMF_TOO_MANY_FILES');
    const answers = [{ availableBytes: 0, totalBytes: 60 * MIB }, noFiles];
    const gauge = gaugeOf(() => {
      const answer = answers.shift() ?? { availableBytes: 30 * MIB, totalBytes: 60 * MIB };
      if (answer instanceof VmforkError) throw answer;
      return answer;
    });
    const budget = new MemoryBudget({ fixedBytes: null, onBudget: 'wait', gauge });
    expect(await budget.admit(1)).toHaveLength(1); // In the end, after two readings that did not help.
    expect(answers).toEqual([]);
    answers.push(noFiles);
    const other = new MemoryBudget({ fixedBytes: null, onBudget: 'wait', gauge });
    await expect(other.admit(1)).rejects.toBe(noFiles);
  });
});
