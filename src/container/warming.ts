// Warming without being asked: what `vmfork run` leaves for its next runs. One process at a time, within a bound on disk.

import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../kvm/engine.js';
import { discard, removeAbandoned } from '../kvm/saved-cache.js';
import type { StoredImage } from '../oci/image.js';
import { isOwnerAlive, ownedName, suffixOf } from '../owner.js';
import {
  createWarmed,
  environment,
  listWarmed,
  type MachineShape,
  type WarmedEntry,
  warmedFolder,
  warmedId,
} from './warmed.js';

/** Most bytes on disk of what was made without being asked; the one that was not used for the longest time goes first. */
export const MOST_AUTOMATIC_BYTES = 512 * 1024 * 1024;
// An image that could not be warmed is not tried again at each run.
const RETRY_AFTER_MS = 60 * 60 * 1000;
// A turn that nobody can ask about (of another container or machine) is over after this long.
const LONGEST_TURN_MS = 10 * 60 * 1000;
const TURN = 'turn';

/** Whether {@link warmInTurn} would have something to do, as far as that is cheap to say. */
export async function wantsWarming(image: StoredImage, shape: MachineShape): Promise<boolean> {
  const id = await warmedId(image, shape);
  const failedAt = await changedAt(failureOf(id));
  if (failedAt !== null && Date.now() - failedAt < RETRY_AFTER_MS) return false;
  return (await changedAt(join(warmedFolder(), id))) === null && (await turns()).length === 0;
}

/**
 * Makes the warmed snapshot of an image unless there is one or another process makes one; then removes what nobody can use
 * any more and what goes beyond the bound. Resolves with whether it made one. Rejects as `vm.attach()` does.
 */
export async function warmInTurn(
  engine: Engine,
  image: StoredImage,
  shape: MachineShape,
): Promise<boolean> {
  await mkdir(warmedFolder(), { recursive: true });
  await removeAbandoned(warmedFolder());
  const turn = await takeTurn();
  if (turn === null) return false;
  try {
    const id = await warmedId(image, shape);
    if ((await changedAt(join(warmedFolder(), id))) !== null) return false;
    await rm(failureOf(id), { force: true });
    await createWarmed(engine, image, shape, true).catch(async (error) => {
      await writeFile(failureOf(id), `${error}\n`);
      throw error;
    });
    await removeUnused();
    return true;
  } finally {
    await rm(turn, { force: true });
  }
}

/**
 * Removes automatic snapshots that no longer fit this host, version and guest, those beyond the bound, and what cannot be
 * read. What was made by `vmfork snapshot create` is its maker's to remove.
 */
export async function removeUnused(mostBytes = MOST_AUTOMATIC_BYTES): Promise<void> {
  const entries = await listWarmed();
  const fits = await environment();
  const latestFirst = entries
    .filter(({ automatic }) => automatic)
    .sort((a, b) => (a.lastUsedAt < b.lastUsedAt ? 1 : -1));
  let totalBytes = 0;
  const isKept = (entry: WarmedEntry): boolean => {
    if (entry.environment !== fits) return false;
    totalBytes += entry.storedBytes;
    return totalBytes <= mostBytes;
  };
  const doomed = latestFirst.filter((entry) => !isKept(entry)).map(({ id }) => id);
  for (const id of [...doomed, ...(await strangers(entries))]) {
    await discard(join(warmedFolder(), id));
  }
}

/** Names of this folder that are neither entries nor another process's. */
async function strangers(entries: readonly WarmedEntry[]): Promise<string[]> {
  const known = new Set(entries.map(({ id }) => id));
  const found: string[] = [];
  for (const name of await readdir(warmedFolder())) {
    if (known.has(name) || suffixOf(name) !== undefined) continue;
    const changed = await changedAt(join(warmedFolder(), name));
    if (changed !== null && Date.now() - changed > RETRY_AFTER_MS) found.push(name);
  }
  return found;
}

/**
 * Announces itself, then looks who else did. So of two at the same time at least one sees the other and leaves; that both
 * leave is possible, and costs a run's wait. Null: it is another one's turn.
 */
async function takeTurn(): Promise<string | null> {
  const own = ownedName(TURN);
  const path = join(warmedFolder(), own);
  await writeFile(path, '');
  if ((await turns()).every((name) => name === own)) return path;
  await rm(path, { force: true });
  return null;
}

/** The turns of living processes. */
async function turns(): Promise<string[]> {
  const names = await readdir(warmedFolder()).catch(() => []);
  const living: string[] = [];
  for (const name of names) {
    if (suffixOf(name) !== TURN) continue;
    const began = await changedAt(join(warmedFolder(), name));
    const isOver = began === null || Date.now() - began > LONGEST_TURN_MS;
    if (!isOver && isOwnerAlive(name, began)) living.push(name);
  }
  return living;
}

const failureOf = (id: string) => join(warmedFolder(), `${id}.failed`);

/** When a file was changed last, null when it is not there. */
async function changedAt(path: string): Promise<number | null> {
  const found = await stat(path).catch(() => null);
  return found?.mtimeMs ?? null;
}
