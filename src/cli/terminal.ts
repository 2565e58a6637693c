// Joins a command in a guest to the streams and the terminal of this process.

import { pipeline } from 'node:stream/promises';
import { stopMain } from '../container/process.js';
import { VmforkError } from '../errors.js';
import type { Command } from '../exec/command.js';
import { signalNumber } from '../exec/signals.js';
import { EXIT } from './exit-codes.js';

const TERMINAL = { columns: 80, rows: 24 };
// Time to tidy up for a command whose output nobody reads any more.
const UNREAD_GRACE_MS = 500;

/** Why output could not be passed on. */
type OutputFailure = NodeJS.ErrnoException;

/** Resolves when all output has been passed on; with the failure when it cannot be, which ends the command. */
export async function connectStreams(command: Command): Promise<OutputFailure | undefined> {
  const { stdin, stdout, stderr } = command;
  // A command need not read all of its input, and its end is not the failure of ours.
  if (stdin) pipeline(process.stdin, stdin).catch(() => {});
  const [failure, another] = await Promise.all([
    pass(command, stdout, process.stdout),
    stderr ? pass(command, stderr, process.stderr) : undefined,
  ]);
  return failure ?? another;
}

async function pass(
  command: Command,
  from: NodeJS.ReadableStream,
  to: NodeJS.WriteStream,
): Promise<OutputFailure | undefined> {
  try {
    await pipeline(from, to, { end: false });
    return undefined;
  } catch (error) {
    // The guest's side failed, of which the command's end tells.
    if (VmforkError.is(error)) return undefined;
    // The command hears of it as it would without us. The first process of a container ignores signals that it has no
    // handler for, and others may as well: none of them goes on writing for nobody.
    stopMain(command, signalNumber('SIGPIPE'), UNREAD_GRACE_MS).catch(() => {});
    return error as OutputFailure;
  }
}

/** The exit code of a command whose output is done with; throws when that failed for another reason than a missing reader. */
export function exitCodeAfter(failure: OutputFailure | undefined, exitCode: number): number {
  if (failure === undefined) return exitCode;
  if (failure.code === 'EPIPE') return EXIT.unread;
  throw new VmforkError('VMF_SYSTEM', `output of the command: ${failure.message}`, {
    operation: failure.syscall ?? 'write',
    cause: failure,
  });
}

/**
 * The command's terminal follows the size of ours, and keys go to it as they are typed when it reads them. When it does not,
 * ours goes on making signals of Ctrl-C and the like. Returns what undoes it.
 */
export function attachTerminal(command: Command): () => void {
  const raw = command.stdin !== null && process.stdin.isTTY;
  if (raw) process.stdin.setRawMode(true);
  const onResize = () => command.resize(terminalSize());
  process.stdout.on('resize', onResize);
  return () => {
    process.stdout.off('resize', onResize);
    if (raw) process.stdin.setRawMode(false);
  };
}

/** Size of our terminal, in characters. */
export function terminalSize(): { columns: number; rows: number } {
  const { columns, rows } = process.stdout;
  return { columns: columns || TERMINAL.columns, rows: rows || TERMINAL.rows };
}
