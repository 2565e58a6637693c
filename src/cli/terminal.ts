// Joins a command in a guest to the streams and the terminal of this process.

import { pipeline } from 'node:stream/promises';
import type { Command } from '../exec/command.js';

const TERMINAL = { columns: 80, rows: 24 };

/** Resolves when all output has been passed on. */
export function connectStreams(command: Command): Promise<unknown> {
  const { stdin, stdout, stderr } = command;
  // A command need not read all of its input, and its end is not the failure of ours.
  if (stdin) pipeline(process.stdin, stdin).catch(() => {});
  const pass = (from: NodeJS.ReadableStream, to: NodeJS.WriteStream) =>
    // The reader of our output went away: the command hears of it as it would without us.
    pipeline(from, to, { end: false }).catch(() => command.kill('SIGPIPE'));
  return Promise.all([pass(stdout, process.stdout), stderr && pass(stderr, process.stderr)]);
}

/** Keys go to the command as they are typed, and its terminal follows the size of ours. Returns what undoes it. */
export function attachTerminal(command: Command): () => void {
  const raw = process.stdin.isTTY;
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
