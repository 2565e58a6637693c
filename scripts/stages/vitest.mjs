// Test stages in TypeScript: unit tests and fuzz targets anywhere, kvm tests on this machine's /dev/kvm and, the same
// ones, on the real kvm_amd of the nested host.
import { randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { listFiles } from '../lib/files.mjs';
import { Outcome } from '../lib/outcome.mjs';
import { hasKvm, root } from '../lib/project.mjs';
import { run } from '../lib/run.mjs';
import { readReport } from '../lib/vitest-report.mjs';

const isTest = (path) => path.endsWith('.test.ts');
const kvmTimeoutMs = 40 * 60_000;

// Files that look at all of the machine, or whose guests take all of it; the others run two at a time.
const alone = ['event-loop', 'fork', 'isolation', 'leaks', 'process'].map(
  (name) => `test/kvm/${name}.test.ts`,
);

export const unit = () => runProject('unit', 'unit', [], 5 * 60_000);

/** The fuzz targets of the parsers in TypeScript, from a new seed each time; one target is one test. */
export function fuzzParsers() {
  const seed = process.env.VMFORK_FUZZ_SEED || String(randomInt(2 ** 31));
  console.error(`fuzz: the parsers in TypeScript: VMFORK_FUZZ_SEED=${seed}`);
  const secondsEach = Number(process.env.VMFORK_FUZZ_SECONDS || 5);
  const files = listFiles('test/fuzz', isTest);
  // An input that never gives the thread back ends the run without a report.
  const timeoutMs = files.length * (secondsEach * 10_000 + 60_000);
  return runProject('fuzz', 'fuzz', [], timeoutMs, { VMFORK_FUZZ_SEED: seed });
}

export async function kvm() {
  const files = listFiles('test/kvm', isTest);
  if (!hasKvm()) {
    console.error('\n*** no /dev/kvm here: the kvm suite runs only inside the emulated host ***');
    return Object.assign(new Outcome(), { skipped: files.length });
  }
  const pairs = files.filter((path) => !alone.includes(path));
  const atOnce = ['--fileParallelism', `--maxWorkers=${Math.min(2, availableParallelism())}`];
  const first = await runProject('kvm', 'kvm', [...atOnce, ...pairs], kvmTimeoutMs);
  const second = await runProject('kvm', 'kvm-alone', alone, kvmTimeoutMs);
  return first.add(second);
}

/** Runs tests of one project of vitest.config.ts; the report is build/vitest-`name`.json. */
async function runProject(project, name, options, timeoutMs, env = {}) {
  const report = join(root, `build/vitest-${name}.json`);
  rmSync(report, { force: true });
  const vitest = join(root, 'node_modules/vitest/vitest.mjs');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const args = [vitest, 'run', '--project', project, ...reporters, ...options];
  const { code, output } = await run(process.execPath, args, { echo: true, timeoutMs, env });
  return readReport(project, report, code, output);
}

/** `othersEnd`: when the stages beside it leave the other processor to it. */
export async function nested(othersEnd) {
  const { runNestedSuite } = await import(join(root, 'test/nested/run.mjs'));
  return runNestedSuite(undefined, othersEnd);
}
