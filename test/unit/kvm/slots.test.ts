import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { Slots } from '#src/kvm/slots.js';
import { Deferred } from '#src/waiting.js';

test('no more than so many run at once, in the order they came', async () => {
  const slots = new Slots(2);
  const started: number[] = [];
  const gates = Array.from({ length: 4 }, () => new Deferred<void>());
  const runs = gates.map((gate, index) =>
    slots.run('x', undefined, () => {
      started.push(index);
      return gate.promise;
    }),
  );
  expect(started).toEqual([0, 1]);
  gates[1]?.resolve();
  await runs[1];
  expect(started).toEqual([0, 1, 2]);
  for (const gate of gates) gate.resolve();
  await Promise.all(runs);
  expect(started).toEqual([0, 1, 2, 3]);
});

test('a failure gives the slot back, and so does a signal that fired in the queue', async () => {
  const slots = new Slots(1);
  const failing = slots.run('x', undefined, () => Promise.reject(new Error('no')));
  const aborted = slots.run('x', AbortSignal.abort(), () => Promise.resolve());
  await expect(failing).rejects.toThrow('no');
  await expect(aborted).rejects.toMatchObject({ code: 'VMF_ABORTED' });
  await expect(slots.run('x', undefined, () => Promise.resolve(1))).resolves.toBe(1);
});

test('a signal is heeded in the queue at once, and the turn goes to the next', async () => {
  const slots = new Slots(1);
  const gate = new Deferred<void>();
  const running = slots.run('x', undefined, () => gate.promise);
  const controller = new AbortController();
  const aborted = slots.run('x', controller.signal, () => Promise.resolve());
  const next = slots.run('x', new AbortController().signal, () => Promise.resolve(2));
  controller.abort();
  await expect(aborted).rejects.toMatchObject({ code: 'VMF_ABORTED', operation: 'x' });
  gate.resolve();
  await running;
  await expect(next).resolves.toBe(2);
});

test('many that wait under one signal put one listener on it', async () => {
  const controller = new AbortController();
  const slots = new Slots(1);
  const hold = new Deferred<void>();
  const first = slots.run('fork', undefined, () => hold.promise);
  const others = Array.from({ length: 20 }, () =>
    slots.run('fork', controller.signal, async () => {}),
  );
  const outcomes = Promise.allSettled(others);
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(1);
  controller.abort();
  for (const outcome of await outcomes) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'VMF_ABORTED' } });
  }
  hold.resolve();
  await first;
  await slots.run('fork', undefined, async () => {});
});
