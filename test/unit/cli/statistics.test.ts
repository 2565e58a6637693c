// Percentiles are samples that occurred, never an average of two.

import { expect, test } from 'vitest';
import { percentile, summarize } from '#src/cli/statistics.js';

const oneToHundred = Array.from({ length: 100 }, (_, index) => index + 1);

test.each([
  [0, 1],
  [0.5, 50],
  [0.99, 99],
  [1, 100],
])('fraction %d of 1..100 is %d', (fraction, value) => {
  expect(percentile(oneToHundred, fraction)).toBe(value);
});

test('order of the samples does not matter and they are left alone', () => {
  const samples = [30, 10, 20];
  expect(summarize(samples)).toEqual({ n: 3, min: 10, p50: 20, p99: 30, max: 30 });
  expect(samples).toEqual([30, 10, 20]);
});

test('no samples have no percentile', () => {
  expect(() => summarize([])).toThrow(RangeError);
});
