// Runs the tools of the guest's build; a failure shows the end of what the tool said.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { Failure } from '../../scripts/lib/run.mjs';

const keptLines = 40;

/** Standard output and error of a tool that must succeed; `onLine` sees each line as it comes. */
export async function runTool(command, args, { cwd, env, onLine = () => {} } = {}) {
  // The locale decides messages and sort orders: one for every machine.
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, LC_ALL: 'C', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines = [];
  const collect = (line) => {
    if (lines.push(line) > keptLines) lines.shift();
    onLine(line);
  };
  for (const stream of [child.stdout, child.stderr]) createInterface(stream).on('line', collect);
  const stop = () => child.kill('SIGTERM');
  process.on('exit', stop);
  const code = await new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new Failure(`cannot run ${command}: ${error.message}`)));
    child.on('close', resolve);
  }).finally(() => process.off('exit', stop));
  if (code !== 0) throw new Failure(`${command} failed (${code}):\n${lines.join('\n')}`);
  return lines.join('\n');
}

/** The line in which a tool names its version. */
export async function toolVersion(command, flag = '--version') {
  let version = '';
  const onLine = (line) => {
    if (version === '' && /\d\.\d/.test(line)) version = line;
  };
  await runTool(command, [flag], { onLine });
  return `${command}: ${version}`;
}
