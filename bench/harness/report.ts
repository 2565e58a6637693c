// The one document a benchmark produces, and how it looks for people.

import type { Environment } from './environment.js';
import type { Metric } from './stats.js';

/** Exactly what `--json` prints. */
export interface Report {
  case: string;
  environment: Environment;
  parameters: Record<string, number | string>;
  results: Record<string, Metric>;
}

const COLUMNS = ['n', 'min', 'p50', 'p99', 'max'] as const;

/** A table for the terminal. */
export function formatReport(report: Report): string {
  const { environment: host } = report;
  const parameters = Object.entries(report.parameters).map(([name, value]) => `${name} ${value}`);
  const rows = Object.entries(report.results).map(([name, metric]) => [
    name,
    metric.unit,
    ...COLUMNS.map((column) => formatNumber(metric[column])),
  ]);
  return [
    `${report.case}: ${parameters.join(', ')}`,
    `${host.hostKind} host, ${host.cpuModel} x${host.cpuCount}, Linux ${host.hostKernel}, Node ${host.node}, commit ${host.commit || '-'}, load ${host.loadAverage1m}`,
    ...alignColumns([['metric', 'unit', ...COLUMNS], ...rows]),
  ].join('\n');
}

/** Numbers with about four digits, so that columns can be compared at a glance. */
export function formatNumber(value: number): string {
  if (Number.isInteger(value)) return String(value);
  const magnitude = Math.floor(Math.log10(Math.abs(value)));
  return value.toFixed(Math.min(4, Math.max(0, 3 - magnitude)));
}

/** The first two columns flush left, numbers flush right. */
function alignColumns(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, at) =>
    Math.max(...rows.map((row) => row[at]?.length ?? 0)),
  );
  const cell = (text: string, at: number) =>
    at < 2 ? text.padEnd(widths[at] ?? 0) : text.padStart(widths[at] ?? 0);
  return rows.map((row) => row.map(cell).join('  ').trimEnd());
}
