// Draws reports as SVG: for each unit a panel of horizontal bars (median) with a whisker from the fastest sample to the 99th
// percentile. Pure functions, no DOM. Colours follow the reader's light or dark scheme.

import { scaleLinear, scaleLog } from 'd3-scale';
import { line } from 'd3-shape';
import { formatNumber, type Report } from './report.js';
import type { Metric } from './stats.js';

const WIDTH = 760;
const LABEL_WIDTH = 220;
const VALUE_WIDTH = 130;
const ROW_HEIGHT = 26;
const BAR_HEIGHT = 14;
const TITLE_HEIGHT = 64;
const PANEL_GAP = 44;
const FOOTER_HEIGHT = 24;
const TICKS = 5;
/** Beyond this span the short bars would vanish on a linear axis. */
const LOG_FROM_RATIO = 50;

const STYLE = `
  svg { font: 13px system-ui, sans-serif; --ink: #1c2330; --soft: #5b6575; --grid: #d9dee7; --bar: #2f6fde; --whisker: #b3471d; --paper: #ffffff }
  @media (prefers-color-scheme: dark) { svg { --ink: #e8ecf3; --soft: #9aa5b5; --grid: #39424f; --bar: #6ea0ff; --whisker: #ff9a6b; --paper: #14181f } }
  .paper { fill: var(--paper) } .title { font-size: 16px; font-weight: 600; fill: var(--ink) } .soft { fill: var(--soft); font-size: 11px }
  text { fill: var(--ink) } .grid { stroke: var(--grid) } .bar { fill: var(--bar) } .whisker { stroke: var(--whisker); stroke-width: 2; fill: none }
`;

type Row = readonly [name: string, metric: Metric];
type Scale = (value: number) => number;

/** One chart of everything in a report. */
export function drawReport(report: Report): string {
  const panels = groupByUnit(report.results);
  let top = TITLE_HEIGHT;
  const parts: string[] = [];
  for (const [unit, rows] of panels) {
    parts.push(drawPanel(unit, rows, top));
    top += rows.length * ROW_HEIGHT + PANEL_GAP;
  }
  const height = top + FOOTER_HEIGHT;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="vmfork benchmark: ${escapeText(report.case)}">`,
    `<style>${STYLE}</style>`,
    `<rect class="paper" width="${WIDTH}" height="${height}" rx="6"/>`,
    text(16, 28, `vmfork benchmark: ${report.case}`, 'title'),
    text(16, 48, conditions(report), 'soft'),
    ...parts,
    text(16, height - 12, 'bar: median; line: fastest sample to 99th percentile', 'soft'),
    '</svg>\n',
  ].join('\n');
}

function conditions({ environment: host, parameters }: Report): string {
  return [
    `${host.hostKind} host, ${host.cpuModel} x${host.cpuCount}, Linux ${host.hostKernel}`,
    `Node ${host.node}`,
    `n ${parameters.n}`,
    host.commit && `commit ${host.commit}`,
    host.date.slice(0, 10),
  ]
    .filter(Boolean)
    .join(', ');
}

function groupByUnit(results: Record<string, Metric>): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const [name, metric] of Object.entries(results)) {
    const rows = groups.get(metric.unit) ?? [];
    rows.push([name, metric]);
    groups.set(metric.unit, rows);
  }
  return groups;
}

function drawPanel(unit: string, rows: readonly Row[], top: number): string {
  const { scale, ticks } = makeScale(rows);
  const bottom = top + rows.length * ROW_HEIGHT;
  const axis = ticks.map((tick) => {
    const x = scale(tick);
    return `<line class="grid" x1="${x}" x2="${x}" y1="${top}" y2="${bottom}"/>${text(x, bottom + 14, formatNumber(tick), 'soft', 'middle')}`;
  });
  const unitLabel = text(LABEL_WIDTH - 12, bottom + 14, unit, 'soft', 'end');
  const bars = rows.map((row, index) => drawRow(row, scale, top + index * ROW_HEIGHT));
  return [...axis, unitLabel, ...bars].join('\n');
}

function drawRow([name, metric]: Row, scale: Scale, top: number): string {
  const middle = top + ROW_HEIGHT / 2;
  const start = LABEL_WIDTH;
  const width = Math.max(1, scale(metric.p50) - start);
  const whisker = line()([
    [Math.max(start, scale(metric.min)), middle],
    [Math.max(start, scale(metric.p99)), middle],
  ]);
  const value = `${formatNumber(metric.p50)} ${metric.unit}`;
  return [
    text(start - 12, middle + 4, name, '', 'end'),
    `<rect class="bar" x="${start}" y="${middle - BAR_HEIGHT / 2}" width="${round(width)}" height="${BAR_HEIGHT}" rx="2"/>`,
    `<path class="whisker" d="${whisker}"/>`,
    text(WIDTH - 16, middle + 4, value, '', 'end'),
  ].join('');
}

function makeScale(rows: readonly Row[]): { scale: Scale; ticks: number[] } {
  const range: [number, number] = [LABEL_WIDTH, WIDTH - VALUE_WIDTH];
  const most = Math.max(...rows.map(([, { p99 }]) => p99), Number.MIN_VALUE);
  const medians = rows.map(([, { p50 }]) => p50).filter((value) => value > 0);
  const least = Math.min(...medians, most);
  if (most / least <= LOG_FROM_RATIO) {
    const scale = scaleLinear([0, most], range).nice(TICKS);
    return { scale: (value) => round(scale(value)), ticks: scale.ticks(TICKS) };
  }
  const scale = scaleLog([least / 2, most], range)
    .nice()
    .clamp(true);
  const decades = scale.ticks().filter((tick) => Number.isInteger(Math.log10(tick)));
  return { scale: (value) => round(scale(Math.max(value, least / 2))), ticks: decades };
}

function text(x: number, y: number, content: string, className = '', anchor = 'start'): string {
  const attributes = `${className && ` class="${className}"`} text-anchor="${anchor}"`;
  return `<text x="${x}" y="${y}"${attributes}>${escapeText(content)}</text>`;
}

const round = (value: number): number => Math.round(value * 10) / 10;

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escapeText = (content: string): string =>
  content.replace(/[&<>"]/g, (character) => ENTITIES[character] ?? character);
