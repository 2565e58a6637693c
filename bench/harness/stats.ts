// Exact statistics of raw samples: no buckets, no interpolation, no outlier removed.

/** One metric as it is reported. */
export interface Metric {
  unit: string;
  n: number;
  min: number;
  p50: number;
  p99: number;
  max: number;
}

/** The smallest sample that at least `fraction` of all samples do not exceed (nearest rank). */
export function percentile(sorted: readonly number[], fraction: number): number {
  const rank = Math.max(1, Math.ceil(fraction * sorted.length));
  const value = sorted[rank - 1];
  if (value === undefined) throw new RangeError('no samples');
  return value;
}

/** Sums samples up. Values keep six significant digits: no clock here is better. */
export function summarize(unit: string, samples: readonly number[]): Metric {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (fraction: number) => Number(percentile(sorted, fraction).toPrecision(6));
  return { unit, n: sorted.length, min: at(0), p50: at(0.5), p99: at(0.99), max: at(1) };
}

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

  /** The median of a metric so far. */
  median(name: string): number {
    const metric = this.#metrics.get(name);
    if (!metric) throw new RangeError(`no samples of ${name}`);
    return percentile(
      [...metric.values].sort((a, b) => a - b),
      0.5,
    );
  }

  /** All metrics in the order of their first sample. */
  summaries(): Record<string, Metric> {
    const entries = [...this.#metrics].map(
      ([name, { unit, values }]) => [name, summarize(unit, values)] as const,
    );
    return Object.fromEntries(entries);
  }
}
