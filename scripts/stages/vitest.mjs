// Test stages in TypeScript: unit tests anywhere, kvm tests on this machine's /dev/kvm and, the same
// ones, on the real kvm_amd of the nested host.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { listFiles } from '../lib/files.mjs';
import { hasKvm, root } from '../lib/project.mjs';
import { Failure, run } from '../lib/run.mjs';

const isTest = (path) => path.endsWith('.test.ts');
const kvmTimeoutMs = 40 * 60_000;

export const unit = () => runProject('unit', 5 * 60_000);

export async function kvm() {
  if (hasKvm()) return runProject('kvm', kvmTimeoutMs);
  const files = listFiles('test/kvm', isTest).length;
  console.error('\n*** no /dev/kvm here: the kvm suite runs only inside the emulated host ***');
  return { passed: 0, failed: 0, skipped: files };
}

async function runProject(project, timeoutMs) {
  if (listFiles(`test/${project}`, isTest).length === 0)
    return { passed: 0, failed: 0, skipped: 0 };
  const report = join(root, `build/vitest-${project}.json`);
  rmSync(report, { force: true });
  const vitest = join(root, 'node_modules/vitest/vitest.mjs');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const args = [vitest, 'run', '--project', project, ...reporters];
  const { code } = await run(process.execPath, args, { echo: true, timeoutMs });
  return readReport(report, code);
}

/** Totals of vitest's JSON report; errors outside of tests make it exit non-zero without a failed one. */
function readReport(path, code) {
  if (!existsSync(path)) throw new Failure(`vitest left no report (exit code ${code})`);
  const report = JSON.parse(readFileSync(path, 'utf8'));
  const failed = report.numFailedTests || (code === 0 ? 0 : 1);
  return {
    passed: report.numPassedTests,
    failed,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

export async function nested() {
  if (listFiles('test/kvm', isTest).length === 0) return { passed: 0, failed: 0, skipped: 0 };
  const { resultDir, runInNestedHost } = await import(join(root, 'test/nested/run.mjs'));
  const report = join(resultDir, 'vitest.json');
  rmSync(report, { force: true });
  const code = await runInNestedHost([], kvmTimeoutMs, (chunk) => process.stderr.write(chunk));
  return readReport(report, code);
}
