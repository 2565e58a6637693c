// Samples become exactly the metrics that the JSON document promises.

import { expect, test } from 'vitest';
import { formatNumber } from '../../../bench/harness/report.js';
import { Samples } from '../../../bench/harness/stats.js';

test('samples are summed up per metric, in the order of their first sample', () => {
  const samples = new Samples();
  samples.addMs('b_ms', 3);
  samples.add('a_kib', 'KiB', 7);
  samples.addMs('b_ms', 1);
  samples.addMs('b_ms', 2);
  expect(Object.entries(samples.summaries())).toEqual([
    ['b_ms', { unit: 'ms', n: 3, min: 1, p50: 2, p99: 3, max: 3 }],
    ['a_kib', { unit: 'KiB', n: 1, min: 7, p50: 7, p99: 7, max: 7 }],
  ]);
  expect(samples.median('b_ms')).toBe(2);
});

test('the median of a metric without samples is refused', () => {
  expect(() => new Samples().median('fork_ms')).toThrow(RangeError);
});

test.each([
  [0, '0'],
  [12, '12'],
  [0.03512, '0.0351'],
  [0.5, '0.5000'],
  [12.345, '12.35'],
  [1234.5, '1235'],
])('%d is shown as %s', (value, text) => {
  expect(formatNumber(value)).toBe(text);
});
