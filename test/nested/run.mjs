// `npm run nested -- COMMAND…`: runs a command of this checkout inside the nested-SVM host.
// Without a command: the kvm test suite; with files of it (`test/kvm/NAME.test.ts`): those.
import { join } from 'node:path';
import { buildTypeScript } from '../../scripts/build-ts.mjs';
import { root } from '../../scripts/lib/project.mjs';
import { main } from '../../scripts/lib/run.mjs';
import { buildTestPrograms } from '../kvm/programs/build.mjs';
import { guestArtefacts } from './guest-files.mjs';
import { withNestedHost } from './host.mjs';
import { runSuite } from './suite.mjs';

const resultDir = join(root, 'build/nested');
const write = (chunk) => process.stderr.write(chunk);

async function withPreparedHost(use) {
  buildTestPrograms(); // There is no compiler inside.
  await buildTypeScript(); // The tests there load dist/.
  const { guestFiles } = await guestArtefacts();
  return withNestedHost(guestFiles, use);
}

/** The kvm suite, or the given files of it, inside nested hosts: their Outcome. See runSuite(). */
export const runNestedSuite = (files, othersEnd) =>
  withPreparedHost((host) => runSuite(host, { resultDir, onOutput: write, files, othersEnd }));

const isTest = (word) => /^test\/kvm\/.*\.test\.ts$/.test(word);

if (process.argv[1] === import.meta.filename) {
  const timeoutMs = Number(process.env.VMFORK_NESTED_TIMEOUT_MS ?? 600_000);
  await main(async () => {
    const argv = process.argv.slice(2);
    if (argv.every(isTest)) {
      const outcome = await runNestedSuite(argv.length > 0 ? argv : undefined);
      if (outcome.failed > 0) console.log(outcome.describeFailures());
      console.log(String(outcome));
      process.exitCode = outcome.failed > 0 ? 1 : 0;
      return;
    }
    const onOutput = (chunk) => process.stdout.write(chunk);
    process.exitCode = await withPreparedHost((host) =>
      host({ argv, resultDir, timeoutMs, onOutput }),
    );
  });
}
