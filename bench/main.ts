// The benchmark command: `npm run -s bench -- CASE [--json] [--n N]`. Standard output carries results only.

import { constants } from 'node:os';
import { argv, exit, stderr, stdout } from 'node:process';
import { Command, InvalidArgumentError } from 'commander';
import { EXIT } from '#src/cli/exit-codes.js';
import { describeFailure } from '#src/cli/failure.js';
import { CASES } from './cases/index.js';
import { type BenchCase, runCase } from './harness/case.js';
import { formatReport, type Report } from './harness/report.js';
import { drawSavedReports, saveReport } from './harness/results.js';

const MOST_SAMPLES = 1_000_000;

interface Options {
  json?: boolean;
  n?: number;
  save?: boolean;
  svg?: boolean;
}

const program = new Command('bench')
  .exitOverride(({ exitCode }) => exit(exitCode === 0 ? EXIT.ok : EXIT.usage))
  .description('Measures the engine. Every figure says its machine, kernel, commit and n.')
  .argument('[case]', 'a case, or `all`')
  .option('--json', 'print one JSON document and nothing else')
  .option('--n <count>', 'samples per case', parseCount)
  .option('--save', 'keep the report as bench/results/CASE.json')
  .option('--svg', 'draw every kept report as bench/results/CASE.svg; no case is needed')
  .addHelpText('after', `\nCases:\n${CASES.map(describeCase).join('\n')}`)
  .action(run);

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => exit(EXIT.signalled + constants.signals[signal]));
}
try {
  await program.parseAsync(argv);
} catch (error) {
  stderr.write(`${describeFailure(error)}\n`);
  exit(EXIT.failed);
}

async function run(name: string | undefined, options: Options): Promise<void> {
  const chosen = name === undefined ? [] : casesNamed(name);
  if (chosen.length === 0 && !options.svg) return program.help({ error: true });
  const reports: Report[] = [];
  for (const benchCase of chosen) {
    const measured = await runCase(benchCase, options.n, (text) => {
      stderr.write(`${benchCase.name}: ${text}\n`);
    });
    const { report } = measured;
    if (options.save) stderr.write(`saved ${saveReport(measured)}\n`);
    if (!options.json) stdout.write(`${formatReport(report)}\n\n`);
    reports.push(report);
  }
  const first = reports[0];
  if (options.json && first)
    stdout.write(`${JSON.stringify(name === 'all' ? merge(reports) : first)}\n`);
  if (options.svg) for (const path of await drawSavedReports()) stderr.write(`drew ${path}\n`);
}

function casesNamed(name: string): readonly BenchCase[] {
  if (name === 'all') return CASES;
  const found = CASES.filter((benchCase) => benchCase.name === name);
  if (found.length > 0) return found;
  return program.error(`no case ${name}; cases: ${CASES.map((one) => one.name).join(', ')}, all`);
}

/** All cases in one document: metrics and parameters under the name of their case. */
function merge(reports: readonly Report[]): Report {
  const [first] = reports;
  if (!first) throw new Error('no reports');
  const prefixed = <T>(pick: (report: Report) => Record<string, T>): Record<string, T> =>
    Object.fromEntries(
      reports.flatMap((report) =>
        Object.entries(pick(report)).map(([key, value]) => [`${report.case}.${key}`, value]),
      ),
    );
  return {
    case: 'all',
    environment: first.environment,
    parameters: prefixed((report) => report.parameters),
    results: prefixed((report) => report.results),
  };
}

function parseCount(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1 && count <= MOST_SAMPLES) return count;
  throw new InvalidArgumentError(`must be an integer from 1 to ${MOST_SAMPLES}`);
}

function describeCase({ name, summary, defaultN }: BenchCase): string {
  return `  ${name.padEnd(16)} ${summary} (n ${defaultN})`;
}
