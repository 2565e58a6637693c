// bench/results: the newest saved report of each case, and the charts drawn from them.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Measured } from './case.js';
import type { Report } from './report.js';

// This file runs from dist/bench/harness.
const FOLDER = fileURLToPath(new URL('../../../bench/results/', import.meta.url));

/** Keeps a report with its samples; returns its path. */
export function saveReport({ report, raw }: Measured): string {
  mkdirSync(FOLDER, { recursive: true });
  const path = join(FOLDER, `${report.case}.json`);
  const results = Object.fromEntries(
    Object.entries(report.results).map(([name, metric]) => [name, { ...metric, ...raw[name] }]),
  );
  writeFileSync(path, `${formatKept({ ...report, results })}\n`);
  return path;
}

/** JSON with a list of numbers on one line. */
export function formatKept(report: Report): string {
  return JSON.stringify(report, null, 2).replace(/\[[\d\s,.e+-]*\]/g, (list) =>
    list.replace(/\s+/g, ''),
  );
}

/** Draws every saved report; returns the paths of the charts. */
export async function drawSavedReports(): Promise<string[]> {
  // d3 is there in a checkout only, as these files are.
  const { drawReport } = await import('./chart.js');
  const names = readdirSync(FOLDER).filter((name) => name.endsWith('.json'));
  return names.map((name) => {
    const report = JSON.parse(readFileSync(join(FOLDER, name), 'utf8')) as Report;
    const path = join(FOLDER, name.replace(/json$/, 'svg'));
    writeFileSync(path, drawReport(report));
    return path;
  });
}
