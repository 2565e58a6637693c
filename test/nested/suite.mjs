// The kvm suite on the nested host: one boot of the host for each test file. QEMU 7.2's emulation of
// nested SVM sometimes loses a processor's state on the way out of a guest, after minutes as a rule: the
// host's kernel dies of it (a guest's registers at a host's address, a stack that grows without frames) or
// stands still. Such an accident costs one file another boot; a test that fails is never run again.
import { readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { listFiles } from '../../scripts/lib/files.mjs';
import { readReport } from '../../scripts/lib/vitest-report.mjs';
import { HostDied } from './host.mjs';

const { files: leftOut } = JSON.parse(
  readFileSync(join(import.meta.dirname, 'left-out.json'), 'utf8'),
);
const maxBoots = 3;
const fileTimeoutMs = 5 * 60_000;
const vitest = ['node', 'node_modules/vitest/vitest.mjs', 'run', '--project', 'kvm'];
const reporters = [
  '--reporter=default',
  '--reporter=json',
  '--outputFile.json=/result/report.json',
];

/**
 * Runs every file of test/kvm (or those given); sums up as { passed, failed, skipped }. One after the other: two emulated
 * hosts beside each other were several times slower than one after the other, and met their time limits.
 */
export async function runSuite(host, { resultDir, onOutput, files = suiteFiles() }) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const file of files) {
    const result = await runFile(host, file, { resultDir, onOutput });
    for (const field of Object.keys(total)) total[field] += result[field];
  }
  return total;
}

const suiteFiles = () =>
  listFiles('test/kvm', (path) => path.endsWith('.test.ts')).filter(
    (path) => !leftOut.includes(path),
  );

async function runFile(host, file, { resultDir, onOutput }) {
  const directory = join(resultDir, basename(file, '.test.ts'));
  const report = join(directory, 'report.json');
  const argv = [...vitest, ...reporters, file];
  for (let boots = 1; ; ++boots) {
    rmSync(report, { force: true });
    try {
      const code = await host({ argv, resultDir: directory, timeoutMs: fileTimeoutMs, onOutput });
      return readReport(report, code);
    } catch (error) {
      console.error(`*** ${file}: ${error.message}`);
      if (!(error instanceof HostDied) || boots === maxBoots) {
        return { passed: 0, failed: 1, skipped: 0 };
      }
      console.error(`*** the emulated host was lost, boot ${boots} of ${maxBoots}: again ***`);
    }
  }
}
