// Time as the benchmarks measure it: the monotonic clock in nanoseconds, reported in milliseconds.

/** This moment on the monotonic clock, nanoseconds. */
export const now = (): bigint => process.hrtime.bigint();

/** Milliseconds between two moments of {@link now}. */
export const msBetween = (start: bigint, end: bigint): number => Number(end - start) / 1e6;

/** Milliseconds since a moment of {@link now}. */
export const msSince = (start: bigint): number => msBetween(start, now());
