// `npm run nested -- COMMAND…`: runs a command of this checkout inside the nested-SVM host.
// Without a command: the kvm test suite, with its JSON report in build/nested/vitest.json.
import { join } from 'node:path';
import { root } from '../../scripts/lib/project.mjs';
import { main } from '../../scripts/lib/run.mjs';
import { buildTestPrograms } from '../kvm/programs/build.mjs';
import { guestArtefacts } from './guest-files.mjs';
import { runNested } from './host.mjs';

const vitest = ['node', 'node_modules/vitest/vitest.mjs', 'run', '--project', 'kvm'];
const reporters = [
  '--reporter=default',
  '--reporter=json',
  '--outputFile.json=/result/vitest.json',
];

export const resultDir = join(root, 'build/nested');

/** Runs the command (default: the kvm suite) and resolves to its exit code. */
export async function runInNestedHost(argv, timeoutMs, onOutput) {
  buildTestPrograms(); // There is no compiler inside.
  const { env, guestFiles } = await guestArtefacts();
  const command = argv.length > 0 ? argv : [...vitest, ...reporters];
  return runNested({ argv: command, env, guestFiles, resultDir, timeoutMs, onOutput });
}

if (process.argv[1] === import.meta.filename) {
  const timeoutMs = Number(process.env.VMFORK_NESTED_TIMEOUT_MS ?? 600_000);
  await main(async () => {
    const write = (chunk) => process.stdout.write(chunk);
    process.exitCode = await runInNestedHost(process.argv.slice(2), timeoutMs, write);
  });
}
