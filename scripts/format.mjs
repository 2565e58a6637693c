// `npm run format`: lays out everything by the two formatters' rules.
import { join } from 'node:path';
import { root } from './lib/project.mjs';
import { main, mustRun, step } from './lib/run.mjs';
import { biome, cFiles } from './lint.mjs';

await main(async () => {
  await step('biome', () => mustRun(biome, ['check', '--write', '.']).then(() => ''));
  await step('clang-format', () =>
    mustRun('clang-format-19', ['-i', ...cFiles()], { cwd: join(root) }).then(() => ''),
  );
});
