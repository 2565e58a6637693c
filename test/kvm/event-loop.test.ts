// JavaScript's thread goes on while machines are made, frozen and destroyed.
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { expect, test } from 'vitest';
import { isNested, templateSnapshot } from '../helpers/kvm.js';

test('no step of a fork, snapshot or destroy holds the event loop up', async () => {
  await using snapshot = await templateSnapshot();
  const delay = monitorEventLoopDelay({ resolution: 1 });
  const round = async () => {
    await using clone = await snapshot.fork();
    await clone.ping();
    await using child = await clone.snapshot();
    await using grandchild = await child.fork();
    await grandchild.memory();
  };
  await round();
  delay.enable();
  for (let i = 0; i < 10; i++) await round();
  delay.disable();
  // The histogram counts the sampling interval in; a scheduler with two busy cores adds some milliseconds now and then.
  expect(delay.percentile(90) / 1e6).toBeLessThan(isNested ? 100 : 10);
});
