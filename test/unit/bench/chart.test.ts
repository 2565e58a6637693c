// Charts are drawn from numbers alone: well-formed, complete, and readable whatever the spread.

import { expect, test } from 'vitest';
import { drawReport } from '../../../bench/harness/chart.js';
import type { Environment } from '../../../bench/harness/environment.js';
import type { Report } from '../../../bench/harness/report.js';
import type { Metric } from '../../../bench/harness/stats.js';

const environment: Environment = {
  date: '2026-01-02T03:04:05.000Z',
  vmfork: '0.1.0',
  commit: '0123456789ab',
  hostKind: 'pvm',
  hostKernel: '6.18.0',
  cpuModel: 'CPU <A&B>',
  cpuCount: 2,
  memoryMiB: 1024,
  node: 'v20.0.0',
  v8: '11',
  qemu: '',
  loadAverage1m: 0,
};

const metric = (unit: string, p50: number): Metric => ({
  unit,
  n: 3,
  min: p50 / 2,
  p50,
  p99: p50 * 2,
  max: p50 * 2,
});

const report = (results: Record<string, Metric>): Report => ({
  case: 'fork',
  environment,
  parameters: { n: 3 },
  results,
});

/** Positions and sizes, which must all be finite and inside the drawing. */
function coordinates(svg: string): number[] {
  const attributes = [...svg.matchAll(/ (?:x|y|x1|x2|y1|y2|width|height)="([^"]*)"/g)];
  return attributes.map(([, value]) => Number(value));
}

test('every metric has a row with its median and unit', () => {
  const svg = drawReport(report({ fork_ms: metric('ms', 0.5), private_kib: metric('KiB', 640) }));
  for (const text of ['fork_ms', '0.5000 ms', 'private_kib', '640 KiB', 'commit 0123456789ab']) {
    expect(svg).toContain(text);
  }
});

test.each([
  ['equal values', [5, 5]],
  ['a wide spread', [0.01, 900]],
  ['zeros', [0, 0]],
  ['a zero beside a value', [0, 12]],
])('coordinates are finite and inside the drawing with %s', (_, medians) => {
  const results = Object.fromEntries(medians.map((p50, at) => [`m${at}`, metric('ms', p50)]));
  for (const value of coordinates(drawReport(report(results)))) {
    expect(value).toBeGreaterThanOrEqual(0);
    expect(value).toBeLessThanOrEqual(2000);
  }
});

test('names from the machine cannot break the markup', () => {
  const svg = drawReport(report({ fork_ms: metric('ms', 1) }));
  expect(svg).toContain('CPU &lt;A&amp;B&gt;');
  expect(svg).not.toContain('<A&B>');
});

test('it has colours for light and dark', () => {
  expect(drawReport(report({ fork_ms: metric('ms', 1) }))).toContain('prefers-color-scheme: dark');
});
