// Samples become exactly the metrics that the JSON document promises.

import { expect, test } from 'vitest';
import type { Environment } from '../../../bench/harness/environment.js';
import { formatNumber } from '../../../bench/harness/report.js';
import { formatKept } from '../../../bench/harness/results.js';
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

test('what is kept has the samples in order, rounded, and of very many an even part', () => {
  const samples = new Samples();
  for (const value of [3.123456789, 1, 2]) samples.addMs('few_ms', value);
  for (let i = 0; i < 2500; i++) samples.addMs('many_ms', i);
  const { few_ms, many_ms } = samples.raw();
  expect(few_ms).toEqual({ samples: [3.12346, 1, 2] });
  expect(many_ms).toMatchObject({ samplesEvery: 3 });
  expect(many_ms?.samples).toHaveLength(834);
  expect(many_ms?.samples?.at(-1)).toBe(2499);
  const summary = { unit: 'ms', n: 3, min: 1, p50: 2, p99: 3.1, max: 3.1 };
  const results = { few_ms: { ...summary, ...few_ms } };
  const report = { case: 'fork', environment: {} as Environment, parameters: { n: 3 }, results };
  expect(formatKept(report)).toContain('"samples": [3.12346,1,2]');
  expect(JSON.parse(formatKept(report))).toEqual(report);
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
