// `vmfork bench`: runs the compiled benchmarks in a process of their own, where nothing else disturbs what is measured.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { EXIT } from './exit-codes.js';

const program = fileURLToPath(new URL('../bench/main.js', import.meta.url));

/** Returns the benchmark's exit code. */
export async function bench(args: readonly string[]): Promise<number> {
  // The terminal's Ctrl-C reaches the child as well; its exit code is the answer.
  const ignore = () => {};
  process.on('SIGINT', ignore);
  const child = spawn(process.execPath, [program, ...args], { stdio: 'inherit' });
  const onTerminate = () => child.kill('SIGTERM');
  process.on('SIGTERM', onTerminate);
  try {
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    return code ?? EXIT.signalled + (signal ? constants.signals[signal] : 0);
  } finally {
    process.off('SIGINT', ignore);
    process.off('SIGTERM', onTerminate);
  }
}
