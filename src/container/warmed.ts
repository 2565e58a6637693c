// Snapshots with an image attached and warm, kept on disk: what `vmfork snapshot create` makes and `vmfork run` forks.

import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import type { Engine } from '../kvm/engine.js';
import { cacheDirectory } from '../kvm/guest.js';
import { Snapshot } from '../kvm/snapshot.js';
import { entryNames, publish, tryLoad } from '../kvm/template-cache.js';
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
  /** ISO 8601. */
  readonly createdAt: string;
  /** What it takes on disk, bytes. */
  readonly storedBytes: number;
}

const FACTS = 'warmed.json';
const ID_DIGITS = 16;
const SECTOR_BYTES = 512;
const DEFAULT_SHAPE = { memoryMiB: 128, vcpus: 1 };
const facts = v.object({
  reference: v.string(),
  digest: v.string(),
  memoryMiB: v.number(),
  vcpus: v.number(),
  createdAt: v.string(),
});

const folder = () => join(cacheDirectory(), 'snapshots');

/** The warmed snapshot of an image for machines of this size, null when there is none that fits this host and version. */
export async function findWarmed(
  engine: Engine,
  image: StoredImage,
  shape: MachineShape,
): Promise<Snapshot | null> {
  return tryLoad(join(folder(), await entryId(image, shape)), engine);
}

/**
 * Attaches the image in a fork of the cached template, lets a first container come and go so that what every container
 * needs is in memory, and keeps the result. Replaces an earlier one. Rejects as `vm.attach()` does.
 */
export async function createWarmed(
  engine: Engine,
  image: StoredImage,
  shape: MachineShape,
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
  const id = await entryId(image, shape);
  const entry = {
    reference: image.reference.toString(),
    digest: image.digest,
    ...DEFAULT_SHAPE,
    ...Object.fromEntries(Object.entries(shape).filter(([, value]) => value !== undefined)),
    createdAt: new Date().toISOString(),
  };
  await mkdir(folder(), { recursive: true });
  await rm(join(folder(), id), { recursive: true, force: true });
  await publish(snapshot, folder(), join(folder(), id), (directory) =>
    writeFile(join(directory, FACTS), JSON.stringify(entry)),
  );
  return describe(id);
}

/** All of them, also those that no longer fit. */
export async function listWarmed(): Promise<WarmedEntry[]> {
  const ids = await readdir(folder()).catch(() => []);
  const entries = await Promise.all(ids.map((id) => describe(id).catch(() => null)));
  return entries.filter((entry) => entry !== null);
}

/** Removes one by its id. Rejects with `VMF_IMAGE_NOT_FOUND`. */
export async function removeWarmed(id: string): Promise<void> {
  const known = (await listWarmed()).some((entry) => entry.id === id);
  if (!known) throw new VmforkError('VMF_IMAGE_NOT_FOUND', `no warmed snapshot ${id}`);
  await rm(join(folder(), id), { recursive: true, force: true });
}

async function entryId(image: StoredImage, shape: MachineShape): Promise<string> {
  const { family, member } = await entryNames(shape);
  const key = [image.digest, family, member].join('\n');
  return createHash('sha256').update(key).digest('hex').slice(0, ID_DIGITS);
}

async function describe(id: string): Promise<WarmedEntry> {
  const directory = join(folder(), id);
  const known = v.parse(facts, JSON.parse(await readFile(join(directory, FACTS), 'utf8')));
  const files = await readdir(directory);
  const sizes = await Promise.all(files.map((name) => stat(join(directory, name))));
  const storedBytes = sizes.reduce((sum, { blocks }) => sum + blocks * SECTOR_BYTES, 0);
  return { id, ...known, storedBytes };
}

function unlessNotStarted(error: unknown): void {
  const codes = ['VMF_COMMAND_NOT_FOUND', 'VMF_COMMAND_FAILED_TO_START'];
  if (!VmforkError.is(error) || !codes.includes(error.code)) throw error;
}
