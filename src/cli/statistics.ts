// Exact order statistics of raw samples: no buckets, no interpolation, no outlier removed.

export interface Summary {
  n: number;
  min: number;
  p50: number;
  p99: number;
  max: number;
}

// No clock or counter here is better than that.
const SIGNIFICANT_DIGITS = 6;

/** The smallest sample that at least `fraction` of all samples do not exceed (nearest rank). */
export function percentile(sorted: readonly number[], fraction: number): number {
  const rank = Math.max(1, Math.ceil(fraction * sorted.length));
  const value = sorted[rank - 1];
  if (value === undefined) throw new RangeError('no samples');
  return value;
}

export function summarize(samples: readonly number[]): Summary {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (fraction: number) =>
    Number(percentile(sorted, fraction).toPrecision(SIGNIFICANT_DIGITS));
  return { n: sorted.length, min: at(0), p50: at(0.5), p99: at(0.99), max: at(1) };
}
