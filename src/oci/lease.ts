// Keeps a garbage collection from deleting what a pull is about to refer to, without either waiting for a lock.
//
// A pull writes down the digests it will use, then waits until no collection is under way, and only then looks which
// blobs are there. A collection announces itself, then reads leases, then references. So one of the two always sees the
// other: either the collection knows the digests, or the pull waits for its end.

import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { ownedName } from '../owner.js';
import { throwIfAborted } from '../waiting.js';
import type { BlobStore } from './blobs.js';
import { storing, unlessMissing } from './failure.js';
import { check, parseJson } from './schemas.js';

const SWEEP_POLL_MS = 20;
const DIGESTS = v.array(v.string());

export class Lease {
  readonly #blobs: BlobStore;
  readonly #name = `leases/${ownedName()}`;
  readonly #digests = new Set<string>();

  constructor(blobs: BlobStore) {
    this.#blobs = blobs;
  }

  /** From when it resolves until `release()`, these blobs stay if they are there. */
  async protect(digests: Iterable<string>, signal?: AbortSignal): Promise<void> {
    for (const digest of digests) this.#digests.add(digest);
    await this.#blobs.writeDocument(this.#name, [...this.#digests]);
    while ((await this.#blobs.livingNames('sweeps')).length > 0) {
      throwIfAborted('pull', signal);
      await sleep(SWEEP_POLL_MS);
    }
  }

  async release(): Promise<void> {
    const path = join(this.#blobs.directory, this.#name);
    await storing(`remove ${path}`, () => rm(path, { force: true }));
  }
}

/** What living processes hold leases for. Call it with a sweep announced. */
export async function leasedDigests(blobs: BlobStore): Promise<Set<string>> {
  const leased = new Set<string>();
  for (const name of await blobs.livingNames('leases')) {
    const path = join(blobs.directory, 'leases', name);
    const bytes = await storing(`read ${path}`, () => unlessMissing(readFile(path)));
    const digests = bytes ? check('lease', DIGESTS, parseJson('lease', bytes)) : [];
    for (const digest of digests) leased.add(digest);
  }
  return leased;
}

/** Announces a garbage collection for as long as `step` runs. */
export async function sweeping<T>(blobs: BlobStore, step: () => Promise<T>): Promise<T> {
  const name = `sweeps/${ownedName()}`;
  await blobs.writeDocument(name, {});
  try {
    return await step();
  } finally {
    await rm(join(blobs.directory, name), { force: true });
  }
}
