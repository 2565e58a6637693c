// Runs the command `vmfork` as its users do: as a program.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';

/** The built command, to be run by node. */
export const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** What a run of the command did. */
export interface CliRun {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Starts the command. */
export const startVmfork = (...args: string[]): ChildProcessWithoutNullStreams =>
  spawn(process.execPath, [program, ...args]);

/** Runs the command to its end. */
export async function vmfork(args: string[], input = ''): Promise<CliRun> {
  const child = startVmfork(...args);
  child.stdin.end(input);
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'exit') as Promise<[number | null]>,
  ]);
  return { code, stdout, stderr };
}
