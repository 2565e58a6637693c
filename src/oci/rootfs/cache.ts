// Root filesystem images kept by content: the same layers are built once. An entry is a directory with the image and its
// facts, made under another name and renamed, so it is there completely or not at all, whoever is killed when.

import { createHash } from 'node:crypto';
import { lstat, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VmforkError } from '../../errors.js';
import { isOwnerAlive, ownedName } from '../../owner.js';
import { hasErrno, unlessMissing } from '../failure.js';
import { type BuildRootfsOptions, buildRootfs, type RootfsInfo, WRITER_VERSION } from './build.js';
import { systemFailure } from './system-failure.js';

/** Options of {@link ensureRootfs}. */
export interface EnsureRootfsOptions extends Omit<BuildRootfsOptions, 'output'> {
  /** Folder of the cache; made when missing. Several processes may use it at once. */
  dir: string;
}

const IMAGE = 'rootfs.erofs';
const FACTS = 'rootfs.json';
const DIFF_ID = /^[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-f]{32,128}$/;
const UNFINISHED = '.tmp-';

const running = new Map<string, Promise<RootfsInfo>>();

/**
 * The image of these layers, built unless the cache has it. Every layer needs its `diffId`: an image is found by the ordered
 * diff ids and the version of the writer. Processes that build the same image at the same time do not disturb each
 * other: the first to finish provides it.
 *
 * @throws VmforkError as {@link buildRootfs} does; `VMF_OPTIONS` also for a layer without a diff id.
 */
export async function ensureRootfs(options: EnsureRootfsOptions): Promise<RootfsInfo> {
  const diffIds = options.layers.map(({ diffId }) => diffId);
  const entry = join(options.dir, cacheKey(diffIds));
  const found = await readEntry(entry);
  if (found) return found;
  const shared = options.signal ? undefined : running.get(entry);
  if (shared !== undefined) return shared;
  const building = buildEntry(entry, options).finally(() => running.delete(entry));
  if (!options.signal) running.set(entry, building);
  return building;
}

/** Names the entry of these layers, for this version of the writer. */
export function cacheKey(diffIds: readonly (string | undefined)[]): string {
  const hash = createHash('sha256').update(`vmfork rootfs ${WRITER_VERSION}\n`);
  diffIds.forEach((diffId, index) => {
    if (typeof diffId !== 'string' || !DIFF_ID.test(diffId)) {
      throw new VmforkError('VMF_OPTIONS', `layer ${index} needs a diffId, e.g. sha256:…`);
    }
    hash.update(`${diffId}\n`);
  });
  return hash.digest('hex');
}

/** What there is in the folder of a cache that {@link removeEntry} could remove. */
export async function entryNames(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((name) => !name.startsWith(UNFINISHED));
}

/**
 * Removes an entry, or whatever has this name. It is gone at once and as a whole; whoever has its image open keeps it.
 * Returns the bytes that it had, null when it was not there.
 */
export async function removeEntry(dir: string, name: string): Promise<number | null> {
  const doomed = join(dir, temporaryName());
  const found = await unlessMissing(rename(join(dir, name), doomed).then(() => true));
  if (!found) return null;
  const sizeBytes = await sizeOf(doomed);
  await rm(doomed, { recursive: true, force: true });
  return sizeBytes;
}

async function sizeOf(entry: string): Promise<number> {
  const facts = await unlessMissing(lstat(entry));
  if (!facts?.isDirectory()) return facts?.size ?? 0;
  const names = (await unlessMissing(readdir(entry))) ?? []; // Another process may remove it as well.
  const files = await Promise.all(names.map((name) => unlessMissing(lstat(join(entry, name)))));
  return files.reduce((sum, file) => sum + (file?.size ?? 0), 0);
}

/** A complete entry; undefined when there is none, or a damaged one. */
async function readEntry(entry: string): Promise<RootfsInfo | undefined> {
  const path = join(entry, IMAGE);
  try {
    const facts: unknown = JSON.parse(await readFile(join(entry, FACTS), 'utf8'));
    if (!isFacts(facts)) return undefined;
    const { sizeBytes, entries, digest } = facts;
    return (await stat(path)).size === sizeBytes ? { path, sizeBytes, entries, digest } : undefined;
  } catch {
    return undefined;
  }
}

function isFacts(value: unknown): value is Omit<RootfsInfo, 'path'> {
  if (typeof value !== 'object' || value === null) return false;
  const { sizeBytes, entries, digest } = value as Record<string, unknown>;
  return (
    Number.isSafeInteger(sizeBytes) &&
    Number.isSafeInteger(entries) &&
    typeof digest === 'string' &&
    /^sha256:[0-9a-f]{64}$/.test(digest)
  );
}

async function buildEntry(entry: string, options: EnsureRootfsOptions): Promise<RootfsInfo> {
  const { dir, ...build } = options;
  await attempt('mkdir', dir, () => mkdir(dir, { recursive: true }));
  await removeAbandoned(dir);
  const temporary = join(dir, temporaryName());
  await attempt('mkdir', temporary, () => mkdir(temporary));
  try {
    const info = await buildRootfs({ ...build, output: join(temporary, IMAGE) });
    const { path: _path, ...facts } = info;
    await writeDurably(join(temporary, FACTS), JSON.stringify(facts));
    await attempt('rename', entry, () => publish(temporary, entry));
    return { ...facts, path: join(entry, IMAGE) };
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** Puts a complete entry in its place. Another process may have been faster: its entry is as good, unless damaged. */
async function publish(temporary: string, entry: string): Promise<void> {
  for (;;) {
    try {
      await rename(temporary, entry);
      const parent = await open(join(entry, '..'));
      return await parent.sync().finally(() => parent.close());
    } catch (failure) {
      if (!hasErrno(failure, 'ENOTEMPTY') && !hasErrno(failure, 'EEXIST')) throw failure;
      if (await readEntry(entry)) return;
      const damaged = join(entry, '..', temporaryName());
      await rename(entry, damaged).catch(() => {}); // Somebody else may have done it just now.
      await rm(damaged, { recursive: true, force: true });
    }
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  await attempt('write', path, async () => {
    const file = await open(path, 'wx', 0o644);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  });
}

async function attempt<T>(operation: string, path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (cause) {
    throw systemFailure(operation, path, cause);
  }
}

/** Whoever finds it can ask whether its owner still lives. */
const temporaryName = () => `${UNFINISHED}${ownedName()}`;

/** Removes what processes left behind that were killed while they built or removed. */
export async function removeAbandoned(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    if (!name.startsWith(UNFINISHED)) continue;
    const path = join(dir, name);
    const facts = await stat(path).catch(() => undefined);
    if (!facts || isOwnerAlive(name.slice(UNFINISHED.length), facts.mtimeMs)) continue;
    await rm(path, { recursive: true, force: true });
  }
}
