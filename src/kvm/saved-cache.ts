// Folders of saved snapshots that processes share without a lock. An entry comes and goes by a rename, so that it is there
// whole or not at all; what is not an entry has a name that tells its owner, and goes when that is dead.

import { readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { debug } from '../diagnostics.js';
import { VmforkError } from '../errors.js';
import { isOwnerAlive, ownedName, suffixOf } from '../owner.js';
import type { Engine } from './engine.js';
import { Snapshot } from './snapshot.js';

const STALE: readonly string[] = [
  'VMF_SNAPSHOT_INVALID',
  'VMF_SNAPSHOT_INCOMPATIBLE',
  'VMF_KERNEL_NOT_FOUND',
];

/** Loads what fits; removes what does not. */
export async function tryLoad(directory: string, engine: Engine): Promise<Snapshot | null> {
  const exists = await stat(directory).catch(() => null);
  if (!exists) return null;
  try {
    return await Snapshot.load(directory, { engine });
  } catch (error) {
    if (!VmforkError.is(error) || !STALE.includes(error.code)) throw error;
    debug('cached snapshot is not usable: %s', error.message);
    await discard(directory);
    return null;
  }
}

/**
 * Saves under a name of its own, lets `complete` add to it, then renames: another process may be doing the same, and either
 * result is good.
 */
export async function publish(
  snapshot: Snapshot,
  directory: string,
  complete: (work: string) => Promise<void> = async () => {},
): Promise<void> {
  const work = join(dirname(directory), ownedName('work'));
  try {
    await snapshot.save(work);
    await complete(work);
    await rename(work, directory).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Removes an entry, if it is there. Whoever has loaded it keeps it. */
export async function discard(directory: string): Promise<void> {
  const doomed = join(dirname(directory), ownedName('doomed'));
  await rename(directory, doomed).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
  await rm(doomed, { recursive: true, force: true });
}

/** Removes what processes left behind that died while they saved or removed. */
export async function removeAbandoned(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (suffixOf(name) === undefined) continue;
    const path = join(parent, name);
    const found = await stat(path).catch(() => null);
    if (found && !isOwnerAlive(name, found.mtimeMs))
      await rm(path, { recursive: true, force: true });
  }
}
