// What files a container's root filesystem has, and digests of some of them, told by the built-in userland inside. The guest
// may lie about its own files, but not break the reading of its answers.

import { randomBytes } from 'node:crypto';
import { VmforkError } from '../errors.js';
import type { Command } from '../exec/command.js';
import { type ExecResult, execute } from '../exec/exec.js';
import type { Session } from '../exec/session.js';
import type { ExecOptions, SpawnOptions } from '../options.js';
import type { WaitOptions } from '../waiting.js';
import { startTool } from './process.js';

const MOST_BYTES = 64 * 1024 * 1024;
const MESSAGE_BYTES = 4096;
const MODE_TYPE = 0o170000;
const REGULAR = 0o100000;
const DIRECTORY = 0o040000;
const DIGEST = /^[0-9a-f]{64}$/;
// Of one entry: mode and device in hex, owner, group, size, inode, time of its last change.
const FORMAT = '%f %D %u %g %s %i %z';
const FIELDS = /^([0-9a-f]+) ([0-9a-f]+) (\d+) (\d+) (\d+) (\d+) (.*)$/;
// The agent writes it into the layer of what a container writes (guest/agent/mounts.c), so its device is that layer's.
const IN_UPPER = '/etc/hostname';

/** One file, directory or other entry. */
export interface TreeEntry {
  mode: number;
  uid: number;
  gid: number;
  sizeBytes: number;
  device: string;
  inode: string;
  /** When content or attributes were changed last, as the guest's clock said. */
  changedAt: string;
}

/** The files of a container, by path as Latin-1, which keeps every byte of it. */
export interface Tree {
  entries: Map<string, TreeEntry>;
  /** The device of what the container has written; null when it cannot be told. */
  upperDevice: string | null;
}

export function isRegular({ mode }: TreeEntry): boolean {
  return (mode & MODE_TYPE) === REGULAR;
}

export function isDirectory({ mode }: TreeEntry): boolean {
  return (mode & MODE_TYPE) === DIRECTORY;
}

/** Everything below a directory of the container. */
export async function listTree(session: Session, path: string, limits: WaitOptions): Promise<Tree> {
  // Names may hold any byte but NUL and /, so what separates them cannot be guessed.
  const mark = randomBytes(16).toString('hex');
  const format = `${mark}${FORMAT}${mark}%n`;
  const stat = ['-exec', 'stat', '-c', format, '{}', '+'];
  const argv = ['find', IN_UPPER, path, '-xdev', ...stat];
  const { signal, stdout, stderr } = await run(session, argv, limits);
  const tree = parseTree(stdout, mark);
  // Files come and go while a tree is read, so a tool that complains has not failed, unless it found nothing.
  if (tree.entries.size > 0) return tree;
  const problem = stderr.toString().slice(0, MESSAGE_BYTES).trim();
  throw new VmforkError('VMF_GUEST_FILE', `${path}: ${signal ?? problem}`, { operation: 'find' });
}

/** @internal What comes first shows the upper device, when it is what was asked for first. */
export function parseTree(output: Buffer, mark: string): Tree {
  const [, ...parts] = output.toString('latin1').split(mark);
  const entries = new Map<string, TreeEntry>();
  let upperDevice: string | null = null;
  for (let at = 0; at + 1 < parts.length; at += 2) {
    const fields = FIELDS.exec(parts[at] ?? '');
    const name = parts[at + 1]?.replace(/\n$/, '');
    if (!fields || !name) throw new VmforkError('VMF_PROTOCOL', 'a listing that is none');
    const [, mode = '', device = '', uid, gid, size, inode = '', changedAt = ''] = fields;
    if (at === 0 && name === IN_UPPER) {
      upperDevice = device;
      continue;
    }
    entries.set(name, {
      mode: Number.parseInt(mode, 16),
      uid: Number(uid),
      gid: Number(gid),
      sizeBytes: Number(size),
      device,
      inode,
      changedAt,
    });
  }
  return { entries, upperDevice };
}

/** SHA-256 of files by path, null for those that could not be read. */
export async function digestFiles(
  session: Session,
  paths: readonly string[],
  limits: WaitOptions,
): Promise<(string | null)[]> {
  if (paths.length === 0) return [];
  const stdin = Buffer.from(paths.map((path) => `${path}\0`).join(''), 'latin1');
  const { stdout } = await run(session, ['xargs', '-0', 'sha256sum'], { ...limits, stdin });
  return parseDigests(stdout.toString('latin1'), paths);
}

/** @internal Lines come in the order of the paths; one that could not be read has none. */
export function parseDigests(output: string, paths: readonly string[]): (string | null)[] {
  let at = 0;
  return paths.map((path) => {
    const line = `  ${path}\n`;
    const digest = output.slice(at, at + 64);
    if (!DIGEST.test(digest) || !output.startsWith(line, at + 64)) return null;
    at += 64 + line.length;
    return digest;
  });
}

async function run(
  session: Session,
  argv: readonly string[],
  options: ExecOptions,
): Promise<ExecResult<Buffer>> {
  const start = (streams: SpawnOptions): Command => startTool(session, argv, streams);
  return execute(start, argv, { ...options, maxBuffer: MOST_BYTES, encoding: 'buffer' });
}
