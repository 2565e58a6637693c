// Processes of a container: the main one, further ones that join it, and tools of the agent's side.

import { type ByteString, splitVariable } from '../byte-string.js';
import { Command, type ExitStatus } from '../exec/command.js';
import type { Session } from '../exec/session.js';
import { signalNumber } from '../exec/signals.js';
import type { SpawnOptions } from '../options.js';
import type { ProcessSpec } from './spec.js';
import { insideItems, mainItems, toolItems } from './wire.js';

/** How the streams of a process are made. */
export type StreamOptions = Pick<SpawnOptions, 'pty' | 'stdin' | 'stderr' | 'signal' | 'timeoutMs'>;

/** What a further process may differ in from the main one. */
export interface JoinOptions extends StreamOptions {
  env?: Readonly<Record<string, ByteString>> | undefined;
  cwd?: ByteString | undefined;
  user?: string | undefined;
  privileged?: boolean | undefined;
}

const SIGNAL_BASE = 128;

/** HOSTNAME is the machine's, not what it was when a container was frozen, unless image or caller have set it. */
function environment(entries: readonly ByteString[], hostname: string): Record<string, ByteString> {
  return { HOSTNAME: hostname, ...Object.fromEntries(entries.map(splitVariable)) };
}

/** Starts the main process; the container ends with it. */
export function startMain(
  session: Session,
  spec: ProcessSpec,
  hostname: string,
  streams: StreamOptions = {},
): Command {
  const options = { ...streams, env: environment(spec.env, hostname), cwd: spec.cwd };
  return new Command(session, spec.argv, options, { items: mainItems(spec) });
}

/** Starts a further process in the namespaces of the main one, with its environment, directory and user. */
export function startInside(
  session: Session,
  argv: readonly ByteString[],
  main: ProcessSpec,
  hostname: string,
  { env, cwd, user, privileged, ...streams }: JoinOptions = {},
): Command {
  const spec = { ...main, user: user ?? main.user, privileged: privileged ?? main.privileged };
  const options = {
    ...streams,
    env: { ...environment(main.env, hostname), ...env },
    cwd: cwd ?? main.cwd,
  };
  return new Command(session, argv, options, { items: insideItems(spec) });
}

/** Takes over the main process that was started in the template: its output from now on, and its end. */
export function adoptMain(
  session: Session,
  argv: readonly ByteString[],
  streams: StreamOptions = {},
): Command {
  return new Command(session, argv, streams, { adopt: true });
}

/** Starts a program of the built-in userland with the container's root as its own; it needs no main process. */
export function startTool(
  session: Session,
  argv: readonly ByteString[],
  streams: StreamOptions = {},
): Command {
  return new Command(session, argv, { ...streams, env: {} }, { items: toolItems() });
}

/** Asks a main process to stop, and kills it when it has not after `graceMs`, which may be Infinity. Resolves with its end. */
export async function stopMain(
  main: Command,
  stopSignal: number,
  graceMs: number,
): Promise<ExitStatus> {
  main.kill(stopSignal);
  const kill = () => main.kill('SIGKILL');
  const timer = graceMs === Number.POSITIVE_INFINITY ? undefined : setTimeout(kill, graceMs);
  try {
    return await main.exited;
  } finally {
    clearTimeout(timer);
  }
}

/** The exit code of `docker run` for an end. */
export function exitCodeOf({ exitCode, signal }: Pick<ExitStatus, 'exitCode' | 'signal'>): number {
  return exitCode ?? SIGNAL_BASE + (signal ? signalNumber(signal) : 0);
}
