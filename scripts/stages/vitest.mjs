// Test stages in TypeScript: unit tests anywhere, kvm tests on this machine's /dev/kvm and, the same
// ones, on the real kvm_amd of the nested host.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { listFiles } from '../lib/files.mjs';
import { hasKvm, root } from '../lib/project.mjs';
import { run } from '../lib/run.mjs';
import { readReport } from '../lib/vitest-report.mjs';

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

export async function nested() {
  const { runNestedSuite } = await import(join(root, 'test/nested/run.mjs'));
  return runNestedSuite();
}
