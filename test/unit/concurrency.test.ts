import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { mapLimited } from '#src/concurrency.js';

test('mapLimited runs so many at once, and keeps the order of the items', async () => {
  let running = 0;
  let most = 0;
  const results = await mapLimited([3, 1, 2, 0, 1], 2, async (turns, index) => {
    most = Math.max(most, ++running);
    for (let i = 0; i < turns; i++) await nextTurn();
    running--;
    return `${index}:${turns}`;
  });
  expect(results).toEqual(['0:3', '1:1', '2:2', '3:0', '4:1']);
  expect(most).toBe(2);
  expect(await mapLimited([], 2, async () => 1)).toEqual([]);
});

test('after a failure of mapLimited no more begin, and those that have are waited for', async () => {
  const stop = new AbortController();
  const begun: number[] = [];
  const ended: number[] = [];
  const working = mapLimited(
    [0, 1, 2, 3],
    2,
    async (item) => {
      begun.push(item);
      if (item === 1) throw new Error('first');
      while (!stop.signal.aborted) await nextTurn();
      ended.push(item);
      throw new Error('stopped');
    },
    () => stop.abort(),
  );
  await expect(working).rejects.toThrow('first');
  expect(begun).toEqual([0, 1]);
  expect(ended).toEqual([0]);
});
