// Garbage collection: marks what names and leases refer to, deletes the rest.

import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { storing, unlessMissing } from './failure.js';
import { leasedDigests, sweeping } from './lease.js';
import type { RefRecord, RefStore } from './refs.js';
import { cacheKey, entryNames, removeEntry } from './rootfs/cache.js';
import { parseImageConfig, parseManifest } from './schemas.js';
import { blobsOf } from './transfer.js';

/** What a garbage collection deleted. */
export interface Garbage {
  /** Files, beginnings of layers included. */
  readonly removedBlobs: number;
  /** Root filesystems that `prepareRootfs()` had built in the store. */
  readonly removedRootfs: number;
  /** The sizes of all together, in bytes. */
  readonly freedBytes: number;
}

export function collectGarbage(blobs: BlobStore, refs: RefStore): Promise<Garbage> {
  return sweeping(blobs, async () => {
    await blobs.recover();
    // Listed first: what a build adds from now on belongs to an image that may get its name after this has looked.
    const builtBefore = await storing('list rootfs', () => entryNames(blobs.rootfsDirectory));
    // Leases before names: a pull gives its image a name first and its lease back then.
    const used = await leasedDigests(blobs);
    const leased = new Set(used);
    const built = new Set<string>();
    for (const record of await refs.all(true)) await mark(blobs, record, used, built);
    const sweep = new Sweep(blobs.directory);
    for (const algorithm of ['sha256', 'sha512']) {
      await sweep.folder(await blobs.names(`blobs/${algorithm}`), `blobs/${algorithm}`, (name) =>
        used.has(`${algorithm}:${name}`),
      );
    }
    await sweep.folder(await blobs.names('partial'), 'partial', (name) =>
      leased.has(name.replace('-', ':')),
    );
    await sweep.rootfs(builtBefore, blobs.rootfsDirectory, (name) => built.has(name));
    const { removedBlobs, removedRootfs, freedBytes } = sweep;
    return { removedBlobs, removedRootfs, freedBytes };
  });
}

/** Adds all that an image refers to, and the name of its root filesystem. */
async function mark(
  blobs: BlobStore,
  record: RefRecord,
  used: Set<string>,
  built: Set<string>,
): Promise<void> {
  used.add(record.manifest);
  try {
    const bytes = await blobs.read(record.manifest);
    if (!bytes) return;
    const manifest = parseManifest(bytes);
    for (const { digest } of blobsOf(manifest)) used.add(digest);
    const config = await blobs.read(manifest.config.digest);
    if (config) built.add(cacheKey(parseImageConfig(config).rootfs.diff_ids));
  } catch (error) {
    // A manifest that is damaged refers to nothing; one that cannot be read now must not cost its layers.
    if (!VmforkError.is(error) || !error.code.startsWith('VMF_IMAGE_')) throw error;
  }
}

class Sweep {
  removedBlobs = 0;
  removedRootfs = 0;
  freedBytes = 0;
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async folder(names: string[], folder: string, isUsed: (name: string) => boolean): Promise<void> {
    for (const name of names) {
      if (isUsed(name)) continue;
      const path = join(this.#directory, folder, name);
      await storing(`remove ${path}`, async () => {
        const found = await unlessMissing(stat(path));
        await rm(path, { force: true });
        this.removedBlobs += found ? 1 : 0;
        this.freedBytes += found?.size ?? 0;
      });
    }
  }

  async rootfs(
    names: string[],
    directory: string,
    isUsed: (name: string) => boolean,
  ): Promise<void> {
    for (const name of names) {
      if (isUsed(name)) continue;
      const step = () => removeEntry(directory, name);
      const sizeBytes = await storing(`remove ${join(directory, name)}`, step);
      this.removedRootfs += sizeBytes === null ? 0 : 1;
      this.freedBytes += sizeBytes ?? 0;
    }
  }
}
