// `vmfork exec -- CMD`: forks once, runs a command as if it were here, and ends with its exit code.

import { exitCodeOf } from '../container/process.js';
import { DEFAULT_ENV } from '../exec/command.js';
import type { Clone } from '../kvm/clone.js';
import type { SpawnOptions } from '../options.js';
import type { Variables } from './arguments.js';
import { readySnapshot, withEngine } from './engine.js';
import { reportFailure } from './failure.js';
import { printJson } from './output.js';
import { attachTerminal, connectStreams, exitCodeAfter, terminalSize } from './terminal.js';

/** Options of the command line. */
export interface ExecCliOptions {
  json?: boolean;
  tty?: boolean;
  env: Variables;
  cwd?: string;
  timeoutMs?: number;
  memoryMib?: number;
}

/** Returns the exit code. */
export async function exec(argv: readonly string[], options: ExecCliOptions): Promise<number> {
  try {
    return await withEngine(async (engine) => {
      const { snapshot } = await readySnapshot(engine, { memoryMiB: options.memoryMib });
      await using clone = await snapshot.fork();
      const run = options.json ? runForJson : runAttached;
      return await run(clone, argv, options);
    });
  } catch (error) {
    return reportFailure(error, options);
  }
}

async function runForJson(
  clone: Clone,
  argv: readonly string[],
  options: ExecCliOptions,
): Promise<number> {
  const stdin = process.stdin.isTTY ? undefined : process.stdin;
  const result = await clone.exec(argv, { ...commandOptions(options), stdin });
  process.stdin.destroy();
  printJson({ ...result, machine: clone.identity, timings: clone.timings() });
  return exitCodeOf(result);
}

async function runAttached(
  clone: Clone,
  argv: readonly string[],
  options: ExecCliOptions,
): Promise<number> {
  const command = clone.spawn(argv, commandOptions(options));
  const restoreTerminal = options.tty ? attachTerminal(command) : () => {};
  try {
    const outputs = connectStreams(command);
    const status = await command.exited;
    return exitCodeAfter(await outputs, exitCodeOf(status));
  } finally {
    restoreTerminal();
    process.stdin.destroy();
  }
}

function commandOptions({ env, cwd, timeoutMs, tty }: ExecCliOptions): SpawnOptions {
  const terminal = tty ? { TERM: process.env.TERM ?? 'xterm-256color' } : {};
  const variables = Object.entries({ ...DEFAULT_ENV, ...terminal, ...env });
  const set = variables.filter((one): one is [string, string] => one[1] !== undefined);
  return {
    env: Object.fromEntries(set),
    cwd,
    timeoutMs,
    ...(tty && { pty: terminalSize() }),
  };
}
