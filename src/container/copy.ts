// Files into and out of a container as tar streams, by the built-in userland's tar: the image needs no tools.

import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type ByteString, textOf } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import type { Command } from '../exec/command.js';
import type { Session } from '../exec/session.js';
import { checkGuestPath } from '../options.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import { startTool } from './process.js';

const MAX_MESSAGE_BYTES = 4096;

/**
 * Unpacks a tar stream below a directory of the container, with owners and modes as they are in it. Links in `path` are
 * resolved inside the container. Rejects with `VMF_GUEST_FILE` when tar fails.
 */
export async function copyIn(
  session: Session,
  path: ByteString,
  tar: Readable | AsyncIterable<Uint8Array>,
  limits: WaitOptions = {},
): Promise<void> {
  checkGuestPath('copyIn', path);
  throwIfAborted('copyIn', limits.signal);
  const command = startTool(session, ['tar', '-x', '-f', '-', '-C', path], limits);
  const problem = messages(command);
  const { stdin } = command;
  if (!stdin) throw new VmforkError('VMF_INTERNAL', 'tar without an input');
  const fed = pipeline(tar, stdin);
  // When tar ends early its own words say why; the source's failure counts only when tar was content.
  fed.catch(() => {});
  command.stdout.resume();
  await succeeded(command, path, problem);
  await fed;
}

/** A tar stream of a file or directory of the container, named by its last part. It fails with `VMF_GUEST_FILE`. */
export function copyOut(session: Session, path: ByteString, limits: WaitOptions = {}): Readable {
  checkGuestPath('copyOut', path);
  throwIfAborted('copyOut', limits.signal);
  // One character a byte.
  const whole = Buffer.from(path).toString('latin1').replace(/\/+$/, '');
  const slash = whole.lastIndexOf('/');
  const directory = Buffer.from(whole.slice(0, slash) || '/', 'latin1');
  const name = Buffer.from(whole.slice(slash + 1) || '.', 'latin1');
  const argv = ['tar', '-c', '-f', '-', '-C', directory, '--', name];
  const command = startTool(session, argv, { ...limits, stdin: 'ignore' });
  const problem = messages(command);
  const { stdout } = command;
  succeeded(command, path, problem).catch((error: Error) => stdout.destroy(error));
  return stdout;
}

/** What tar says about its trouble, up to a limit. */
function messages(command: Command): () => string {
  let text = '';
  command.stderr?.on('data', (bytes: Buffer) => {
    text = (text + bytes.toString()).slice(0, MAX_MESSAGE_BYTES);
  });
  command.stderr?.on('error', () => {}); // The command reports it.
  return () => text.trim();
}

async function succeeded(command: Command, path: ByteString, problem: () => string): Promise<void> {
  const { exitCode, signal } = await command.exited;
  if (exitCode === 0) return;
  const end = signal ?? `exit code ${exitCode}`;
  throw new VmforkError(
    'VMF_GUEST_FILE',
    [textOf(path), end, problem()].filter(Boolean).join(': '),
    {
      operation: 'tar',
    },
  );
}
