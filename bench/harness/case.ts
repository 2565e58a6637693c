// What a benchmark case is, and how one is run into a report.

import { describeEnvironment } from './environment.js';
import type { Report } from './report.js';
import { Samples } from './stats.js';

export type Parameters = Record<string, number | string>;

/** What a case is given. */
export interface CaseRun {
  /** Samples asked for. */
  readonly n: number;
  readonly samples: Samples;
  /** One line on standard error, between samples only. */
  progress(text: string): void;
}

/** One question that a benchmark answers. */
export interface BenchCase {
  readonly name: string;
  /** One line for `--help`. */
  readonly summary: string;
  readonly defaultN: number;
  /** Measures into `run.samples`; returns what else the numbers depend on. */
  measure(run: CaseRun): Promise<Parameters>;
}

/** A report, and the samples behind it. */
export interface Measured {
  report: Report;
  raw: ReturnType<Samples['raw']>;
}

/** Runs a case; the environment is described before it, so that its own load is not in it. */
export async function runCase(
  benchCase: BenchCase,
  n: number | undefined,
  progress: (text: string) => void,
): Promise<Measured> {
  const environment = describeEnvironment();
  const run = { n: n ?? benchCase.defaultN, samples: new Samples(), progress };
  const parameters = await benchCase.measure(run);
  const report = {
    case: benchCase.name,
    environment,
    parameters: { n: run.n, ...parameters },
    results: run.samples.summaries(),
  };
  return { report, raw: run.samples.raw() };
}
