import { expect, test } from 'vitest';
import { Deferred, watchLimits, withLimits } from '#src/waiting.js';

test('without limits the work itself is waited for', async () => {
  const work = Promise.resolve(1);
  expect(withLimits('x', {}, work)).toBe(work);
});

test('a limit that is not hit leaves no timer and no listener', async () => {
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = timers();
  const controller = new AbortController();
  const limits = { signal: controller.signal, timeoutMs: 60_000 };
  await expect(withLimits('x', limits, Promise.resolve(1))).resolves.toBe(1);
  await expect(withLimits('x', limits, Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(timers()).toBe(before);
});

test('a time limit undoes the work and rejects', async () => {
  const given: string[] = [];
  const waiting = withLimits('boot', { timeoutMs: 5 }, new Deferred<void>().promise, (error) => {
    given.push(error.code);
  });
  await expect(waiting).rejects.toMatchObject({ code: 'VMF_TIMEOUT', message: /boot after 5 ms/ });
  expect(given).toEqual(['VMF_TIMEOUT']);
});

test('a signal that has fired already counts', async () => {
  const signal = AbortSignal.abort('reason');
  const waiting = withLimits('x', { signal }, new Deferred<void>().promise);
  await expect(waiting).rejects.toMatchObject({ code: 'VMF_ABORTED', cause: 'reason' });
});

test('watchLimits says nothing after it was stopped', async () => {
  const signal = AbortSignal.abort();
  watchLimits('x', { signal, timeoutMs: 1 }, () => expect.unreachable())();
  await new Promise((resolve) => setTimeout(resolve, 10));
});
