// `npm run -s bench -- CASE …`: prepares everything with its progress on standard error, then runs the case.
// Standard output belongs to the benchmark.
import { spawnSync } from 'node:child_process';
import { prepare } from './lib/prepare.mjs';
import { root } from './lib/project.mjs';
import { main } from './lib/run.mjs';

await main(async () => {
  await prepare(['build', 'guest', 'bench']);
  const args = ['dist/bench/main.js', ...process.argv.slice(2)];
  process.exitCode = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1;
});
