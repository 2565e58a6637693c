// Snapshots with an image attached and warm, kept on disk: what `vmfork snapshot create` makes and `vmfork run` forks.

import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import type { Engine } from '../kvm/engine.js';
import { cacheDirectory } from '../kvm/guest.js';
import { discard, publish, removeAbandoned, tryLoad } from '../kvm/saved-cache.js';
import { Snapshot } from '../kvm/snapshot.js';
import { shapeOf } from '../kvm/template.js';
import { entryNames } from '../kvm/template-cache.js';
import type { StoredImage } from '../oci/image.js';
import { prepareRootfs } from '../oci/prepare.js';

/** Size of the machine. */
export interface MachineShape {
  /** Guest memory, MiB. Default 128. */
  memoryMiB?: number | undefined;
  /** Virtual processors. Default 1. */
  vcpus?: number | undefined;
}

/** A warmed snapshot on disk. */
export interface WarmedEntry {
  /** Names it to {@link removeWarmed}. */
  readonly id: string;
  /** The image's name when it was made. */
  readonly reference: string;
  /** Digest of the image's manifest. */
  readonly digest: string;
  readonly memoryMiB: number;
  readonly vcpus: number;
  /** Made by `vmfork run` for its next runs, and removed again when room is wanted. */
  readonly automatic: boolean;
  /** Library, guest and host that it was made with, as a hash: for others it is of no use. */
  readonly environment: string;
  /** ISO 8601. */
  readonly createdAt: string;
  /** ISO 8601. */
  readonly lastUsedAt: string;
  /** What it takes on disk, bytes. */
  readonly storedBytes: number;
}

const FACTS = 'warmed.json';
const ID_DIGITS = 16;
const ID = /^[0-9a-f]{16}$/;
const SECTOR_BYTES = 512;
const facts = v.object({
  reference: v.string(),
  digest: v.string(),
  memoryMiB: v.number(),
  vcpus: v.number(),
  automatic: v.boolean(),
  environment: v.string(),
  createdAt: v.string(),
});

/** Where they are kept. */
export const warmedFolder = () => join(cacheDirectory(), 'snapshots');

/** The warmed snapshot of an image for machines of this size, null when there is none that fits this host and version. */
export async function findWarmed(
  engine: Engine,
  image: StoredImage,
  shape: MachineShape,
): Promise<Snapshot | null> {
  const directory = join(warmedFolder(), await warmedId(image, shape));
  const found = await tryLoad(directory, engine);
  if (found) await markUsed(directory);
  return found;
}

/**
 * Attaches the image in a fork of the cached template, lets a first container come and go so that what every container
 * needs is in memory, and keeps the result. Replaces an earlier one. Rejects as `vm.attach()` does.
 */
export async function createWarmed(
  engine: Engine,
  image: StoredImage,
  shape: MachineShape,
  automatic = false,
): Promise<WarmedEntry> {
  const rootfs = await prepareRootfs(image);
  await using base = await Snapshot.cached({ engine, ...shape });
  await using machine = await base.fork();
  await machine.attach(rootfs);
  // It need not exist: looking for it warms the way there.
  await machine
    .run({ argv: ['true'], entrypoint: [], keep: true })
    .catch((error) => unlessNotStarted(error));
  await using snapshot = await machine.snapshot();
  const id = await warmedId(image, shape);
  const entry = {
    reference: image.reference.toString(),
    digest: image.digest,
    ...shapeOf(shape),
    automatic,
    environment: await environment(),
    createdAt: new Date().toISOString(),
  };
  const directory = join(warmedFolder(), id);
  await mkdir(warmedFolder(), { recursive: true });
  await removeAbandoned(warmedFolder());
  await discard(directory);
  await publish(snapshot, directory, (work) => writeFile(join(work, FACTS), JSON.stringify(entry)));
  return describe(id);
}

/** All of them, also those that no longer fit. */
export async function listWarmed(): Promise<WarmedEntry[]> {
  const names = await readdir(warmedFolder()).catch(() => []);
  const ids = names.filter((name) => ID.test(name));
  const entries = await Promise.all(ids.map((id) => describe(id).catch(() => null)));
  return entries.filter((entry) => entry !== null);
}

/** Removes one by its id. Rejects with `VMF_IMAGE_NOT_FOUND`. */
export async function removeWarmed(id: string): Promise<void> {
  const known = (await listWarmed()).some((entry) => entry.id === id);
  if (!known) throw new VmforkError('VMF_IMAGE_NOT_FOUND', `no warmed snapshot ${id}`);
  await discard(join(warmedFolder(), id));
}

/** Removes those of images that are not among these, by digest. Returns the bytes that they took. */
export async function removeWarmedExcept(digests: ReadonlySet<string>): Promise<number> {
  let freedBytes = 0;
  for (const { id, digest, storedBytes } of await listWarmed()) {
    if (digests.has(digest)) continue;
    await discard(join(warmedFolder(), id));
    freedBytes += storedBytes;
  }
  return freedBytes;
}

/** Names the snapshot of an image for machines of this size on this host with this version. */
export async function warmedId(image: StoredImage, shape: MachineShape): Promise<string> {
  const { family, member } = await entryNames(shape);
  const key = [image.digest, family, member].join('\n');
  return createHash('sha256').update(key).digest('hex').slice(0, ID_DIGITS);
}

/** What all of them were made with that can still be used: library, guest and host, as a hash. */
export async function environment(): Promise<string> {
  return (await entryNames({})).member;
}

/** When it was forked last; no more than what is removed first depends on it. */
async function markUsed(directory: string): Promise<void> {
  const now = new Date();
  await utimes(join(directory, FACTS), now, now).catch(() => {}); // A cache that cannot be written to is as good.
}

async function describe(id: string): Promise<WarmedEntry> {
  const directory = join(warmedFolder(), id);
  const path = join(directory, FACTS);
  const known = v.parse(facts, JSON.parse(await readFile(path, 'utf8')));
  const files = await readdir(directory);
  const sizes = await Promise.all(files.map((name) => stat(join(directory, name))));
  const storedBytes = sizes.reduce((sum, { blocks }) => sum + blocks * SECTOR_BYTES, 0);
  const { mtime } = await stat(path);
  return { id, ...known, lastUsedAt: mtime.toISOString(), storedBytes };
}

function unlessNotStarted(error: unknown): void {
  const codes = ['VMF_COMMAND_NOT_FOUND', 'VMF_COMMAND_FAILED_TO_START'];
  if (!VmforkError.is(error) || !codes.includes(error.code)) throw error;
}
