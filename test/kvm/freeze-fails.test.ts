// Freezes whose source ends before it goes on: an error, and nothing of what was captured stays.
import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Engine } from 'vmfork';
import { templateSnapshot } from '../helpers/kvm.js';

const MOST_ATTEMPTS = 50;

test('a freeze whose source ends after its capture leaves no memory to the garbage collector', async () => {
  await using engine = new Engine({ memoryBudgetMiB: 4096 });
  await using snapshot = await templateSnapshot(1, engine);
  // The source is to be gone between its capture and the agent's answer that it goes on, which takes as long as a guest
  // needs to wake up. When that was missed, the freeze has succeeded.
  let failed = 0;
  for (let attempt = 0; attempt < MOST_ATTEMPTS && failed === 0; attempt++) {
    const source = await snapshot.fork();
    let isOver = false;
    const freezing = source
      .snapshot()
      .then((frozen) => frozen.destroy())
      .catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'VMF_GONE' });
        failed++;
      })
      .finally(() => {
        isOver = true;
      });
    while (engine.memory.layerBytes === 0 && !isOver) await setImmediate();
    for (let turn = 0; turn < attempt % 5; turn++) await setImmediate();
    await source.destroy();
    await freezing;
    expect(engine.memory.layerBytes).toBe(0);
  }
  expect(failed).toBe(1);
});
