// The kvm suite on the nested host, several test files for each boot of the host. QEMU 7.2's emulation of nested SVM at
// times loses a processor's state on the way out of a guest (often with two processors, see host.mjs): the host's kernel
// dies of it or stands still, or a guest ends in a triple fault or never comes up, with whatever version of the library;
// or one process of a guest does, of which only those count here that run nothing but the agent's own few lines.
// Such an accident costs the files of one boot two more, and those of one that meets the next a boot each; a test that
// fails otherwise is never run again.
import { readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { listFiles } from '../../scripts/lib/files.mjs';
import { Outcome } from '../../scripts/lib/outcome.mjs';
import { readReport } from '../../scripts/lib/vitest-report.mjs';
import { HostDied } from './host.mjs';

const { files: leftOut } = JSON.parse(
  readFileSync(join(import.meta.dirname, 'left-out.json'), 'utf8'),
);
const maxBoots = 3;
const bootTimeoutMs = 15 * 60_000;
// Longer than a test may take there (vitest.config.ts): a test that hangs is a failure, not an accident of the host.
const silenceMs = 150_000;

// The host, Vitest and the template's guest take a minute to start there.
const filesPerBoot = 8;

const vitest = ['node', 'node_modules/vitest/vitest.mjs', 'run', '--project', 'kvm'];
const reporters = [
  '--reporter=verbose', // A line for each test as it ends: a sign of life.
  '--reporter=json',
  '--outputFile.json=/result/report.json',
];

/**
 * Runs every file of test/kvm (or those given); returns the Outcome. One boot after the other, and two at a time once
 * `othersEnd`: an emulated host keeps one processor busy.
 */
export async function runSuite(host, { resultDir, onOutput, files = suiteFiles(), othersEnd }) {
  const total = new Outcome();
  const queue = shareBoots(files).map((shared) => ({ files: shared, boots: 1 }));
  const lane = async () => {
    for (let group = queue.shift(); group; group = queue.shift()) {
      const result = await runOnce(host, group.files, { resultDir, onOutput });
      queue.push(...settle(group, result, total));
    }
  };
  const second = availableParallelism() > 1 ? Promise.resolve(othersEnd).then(lane) : undefined;
  await Promise.all([lane(), second]);
  return total;
}

/** Adds to `total` what a boot has come to, or returns what is to be run again. */
function settle({ files, boots }, result, total) {
  const what = result ? guestAccident(result) : 'the emulated host was lost';
  if (what && boots < maxBoots) {
    console.error(`*** ${what}, boot ${boots} of ${maxBoots}: again ***`);
    return inSharesOf(boots === 1 ? Math.ceil(files.length / 2) : 1, files).map((share) => ({
      files: share,
      boots: boots + 1,
    }));
  }
  if (result) total.add(result);
  else total.fail(`nested: ${files.join(' ')}`, 'the emulated host was lost', files.length);
  return [];
}

function inSharesOf(size, files) {
  const shares = [];
  for (let from = 0; from < files.length; from += size) shares.push(files.slice(from, from + size));
  return shares;
}

// Signals 4, 7, 8 and 11 are those of a processor's exceptions.
const accident =
  /KVM_RUN: triple fault|: resume after 30000 ms|signal (4|7|8|11) ended it before its program began/;

/** What the emulation did to a guest; null when all failures, if any, have other reasons. */
function guestAccident({ failures }) {
  const found = failures.find(({ detail }) => accident.test(detail));
  return found ? `a guest lost its registers (${found.name})` : null;
}

const suiteFiles = () =>
  listFiles('test/kvm', (path) => path.endsWith('.test.ts')).filter(
    (path) => !leftOut.includes(path),
  );

/** In groups of about the same number. */
function shareBoots(files) {
  const count = Math.ceil(files.length / filesPerBoot);
  return Array.from({ length: count }, (_, index) =>
    files.filter((_file, position) => position % count === index),
  );
}

/** The Outcome of one boot; null when the emulated host was lost. */
async function runOnce(host, files, { resultDir, onOutput }) {
  const directory = join(resultDir, basename(files[0], '.test.ts'));
  const report = join(directory, 'report.json');
  rmSync(report, { force: true });
  const argv = [...vitest, ...reporters, ...files];
  const watch = { timeoutMs: bootTimeoutMs, silenceMs, onOutput: wholeLines(onOutput) };
  try {
    const code = await host({ argv, resultDir: directory, ...watch });
    return readReport('nested', report, code);
  } catch (error) {
    console.error(`*** ${files.join(' ')}: ${error.message}`);
    if (error instanceof HostDied) return null;
    return new Outcome().fail(`nested: ${files.join(' ')}`, error.message, files.length);
  }
}

/** Passes chunks on as far as their lines go: two hosts speak at a time. */
function wholeLines(write) {
  let rest = Buffer.alloc(0);
  return (chunk) => {
    const all = Buffer.concat([rest, chunk]);
    const end = all.lastIndexOf('\n') + 1;
    if (end > 0) write(all.subarray(0, end));
    rest = all.subarray(end);
  };
}
