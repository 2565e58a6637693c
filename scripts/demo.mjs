// `npm run demo`: from a fresh clone to twenty forked VMs. Needs nothing but Node and npm to start.
import { spawnSync } from 'node:child_process';
import { prepare } from './lib/prepare.mjs';
import { root } from './lib/project.mjs';
import { main } from './lib/run.mjs';

await main(async () => {
  await prepare(['build', 'guest']);
  const args = ['dist/cli/main.js', 'demo', ...process.argv.slice(2)];
  process.exitCode = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1;
});
