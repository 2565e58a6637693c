// Garbage collection: marks what names and leases refer to, deletes the rest.

import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { storing, unlessMissing } from './failure.js';
import { leasedDigests, sweeping } from './lease.js';
import type { RefRecord, RefStore } from './refs.js';
import { parseManifest } from './schemas.js';
import { blobsOf } from './transfer.js';

/** What a garbage collection deleted. */
export interface Garbage {
  /** Files, beginnings of layers included. */
  readonly removedBlobs: number;
  /** Their sizes together, in bytes. */
  readonly freedBytes: number;
}

export function collectGarbage(blobs: BlobStore, refs: RefStore): Promise<Garbage> {
  return sweeping(blobs, async () => {
    await blobs.recover();
    // Leases before names: a pull gives its image a name first and its lease back then.
    const used = await leasedDigests(blobs);
    const leased = new Set(used);
    for (const record of await refs.all(true)) await mark(blobs, record, used);
    const sweep = new Sweep(blobs.directory);
    for (const algorithm of ['sha256', 'sha512']) {
      await sweep.folder(await blobs.names(`blobs/${algorithm}`), `blobs/${algorithm}`, (name) =>
        used.has(`${algorithm}:${name}`),
      );
    }
    await sweep.folder(await blobs.names('partial'), 'partial', (name) =>
      leased.has(name.replace('-', ':')),
    );
    return { removedBlobs: sweep.removedBlobs, freedBytes: sweep.freedBytes };
  });
}

/** Adds all that an image refers to. */
async function mark(blobs: BlobStore, record: RefRecord, used: Set<string>): Promise<void> {
  used.add(record.manifest);
  try {
    const bytes = await blobs.read(record.manifest);
    if (!bytes) return;
    for (const { digest } of blobsOf(parseManifest(bytes))) used.add(digest);
  } catch (error) {
    // A manifest that is damaged refers to nothing; one that cannot be read now must not cost its layers.
    if (!VmforkError.is(error) || !error.code.startsWith('VMF_IMAGE_')) throw error;
  }
}

class Sweep {
  removedBlobs = 0;
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
}
