// `vmfork exec -- CMD`: forks once, runs a command as if it were here, and ends with its exit code.

import { constants } from 'node:os';
import { pipeline } from 'node:stream/promises';
import { type ErrorCode, VmforkError } from '../errors.js';
import { type Command, DEFAULT_ENV, type ExitStatus } from '../exec/command.js';
import type { Clone } from '../kvm/snapshot.js';
import type { SpawnOptions } from '../options.js';
import { readySnapshot, withEngine } from './engine.js';
import { EXIT } from './exit-codes.js';
import { describeFailure, failureToJson } from './failure.js';
import { note, printJson } from './output.js';

/** Options of the command line. */
export interface ExecCliOptions {
  json?: boolean;
  tty?: boolean;
  env: Record<string, string>;
  cwd?: string;
  timeoutMs?: number;
  memoryMib?: number;
}

const TERMINAL = { columns: 80, rows: 24 };
const FAILURES: Partial<Record<ErrorCode, number>> = {
  VMF_COMMAND_NOT_FOUND: EXIT.notFound,
  VMF_COMMAND_FAILED_TO_START: EXIT.cannotStart,
  VMF_TIMEOUT: EXIT.timedOut,
};

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
    if (options.json) printJson(failureToJson(error));
    else note(describeFailure(error));
    return (VmforkError.is(error) ? FAILURES[error.code] : undefined) ?? EXIT.execFailed;
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
    await outputs;
    return exitCodeOf(status);
  } finally {
    restoreTerminal();
    process.stdin.destroy();
  }
}

function commandOptions({ env, cwd, timeoutMs, tty }: ExecCliOptions): SpawnOptions {
  const terminal = tty ? { TERM: process.env.TERM ?? 'xterm-256color' } : {};
  return {
    env: { ...DEFAULT_ENV, ...terminal, ...env },
    cwd,
    timeoutMs,
    ...(tty && { pty: terminalSize() }),
  };
}

/** Resolves when all output has been passed on. */
function connectStreams(command: Command): Promise<unknown> {
  const { stdin, stdout, stderr } = command;
  // A command need not read all of its input, and its end is not the failure of ours.
  if (stdin) pipeline(process.stdin, stdin).catch(() => {});
  const pass = (from: NodeJS.ReadableStream, to: NodeJS.WriteStream) =>
    // The reader of our output went away: the command hears of it as it would without us.
    pipeline(from, to, { end: false }).catch(() => command.kill('SIGPIPE'));
  return Promise.all([pass(stdout, process.stdout), stderr && pass(stderr, process.stderr)]);
}

/** Keys go to the command as they are typed, and its terminal follows the size of ours. Returns what undoes it. */
function attachTerminal(command: Command): () => void {
  const raw = process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true);
  const onResize = () => command.resize(terminalSize());
  process.stdout.on('resize', onResize);
  return () => {
    process.stdout.off('resize', onResize);
    if (raw) process.stdin.setRawMode(false);
  };
}

function terminalSize(): { columns: number; rows: number } {
  const { columns, rows } = process.stdout;
  return { columns: columns || TERMINAL.columns, rows: rows || TERMINAL.rows };
}

function exitCodeOf({ exitCode, signal }: Pick<ExitStatus, 'exitCode' | 'signal'>): number {
  return exitCode ?? EXIT.signalled + (signal ? constants.signals[signal] : 0);
}
