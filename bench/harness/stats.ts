// Samples of a benchmark by metric, summed up exactly (src/cli/statistics.ts).

import { percentile, type Summary, summarize } from '#src/cli/statistics.js';

/** One metric as it is reported. */
export interface Metric extends Summary {
  unit: string;
  /** Samples in the order in which they were taken; in reports that are kept. */
  samples?: number[];
  /** Of so many, each is the first; absent: all are there. */
  samplesEvery?: number;
}

// A report that is kept stays readable, and small in a repository.
const MOST_RAW_SAMPLES = 1000;
const RAW_DIGITS = 6;

/** Collects samples under metric names. */
export class Samples {
  readonly #metrics = new Map<string, { unit: string; values: number[] }>();

  add(name: string, unit: string, value: number): void {
    const metric = this.#metrics.get(name);
    if (metric) metric.values.push(value);
    else this.#metrics.set(name, { unit, values: [value] });
  }

  addMs(name: string, value: number): void {
    this.add(name, 'ms', value);
  }

  has(name: string): boolean {
    return this.#metrics.has(name);
  }

  /** The median of a metric so far. */
  median(name: string): number {
    const values = this.#metrics.get(name)?.values ?? [];
    return percentile(
      [...values].sort((a, b) => a - b),
      0.5,
    );
  }

  /** The samples themselves, rounded and, when there are very many, evenly thinned out. */
  raw(): Record<string, Pick<Metric, 'samples' | 'samplesEvery'>> {
    const entries = [...this.#metrics].map(([name, { values }]) => {
      const every = Math.ceil(values.length / MOST_RAW_SAMPLES);
      const samples = values
        .filter((_, index) => index % every === 0)
        .map((value) => Number(value.toPrecision(RAW_DIGITS)));
      return [name, every > 1 ? { samples, samplesEvery: every } : { samples }] as const;
    });
    return Object.fromEntries(entries);
  }

  /** All metrics in the order of their first sample. */
  summaries(): Record<string, Metric> {
    const entries = [...this.#metrics].map(
      ([name, { unit, values }]) => [name, { unit, ...summarize(values) }] as const,
    );
    return Object.fromEntries(entries);
  }
}
