// Which names the store knows: one small file for each, named after the hash of the name, so that no name is a path.

import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { isDigest, sha256, splitDigest } from './digest.js';
import { storing, unlessMissing } from './failure.js';
import { type ImageReference, parseReference } from './reference.js';
import { check, parseJson } from './schemas.js';

const digest = v.custom<string>(isDigest);
const RECORD = v.object({ reference: v.string(), manifest: digest, target: digest });

/** A name and what it leads to. */
export interface RefRecord {
  readonly reference: ImageReference;
  /** Digest of the image's manifest. */
  readonly manifest: string;
  /** Digest of what the registry has under the name: the manifest, or an index that lists it. */
  readonly target: string;
}

export class RefStore {
  readonly #blobs: BlobStore;

  constructor(blobs: BlobStore) {
    this.#blobs = blobs;
  }

  async put({ reference, manifest, target }: RefRecord): Promise<void> {
    const name = fileOf(reference);
    await this.#blobs.writeDocument(name, { reference: reference.toString(), manifest, target });
  }

  /** Forgets a name. Whether there was one. */
  async delete(reference: ImageReference): Promise<boolean> {
    const path = join(this.#blobs.directory, fileOf(reference));
    const removed = await storing(`remove ${path}`, () => unlessMissing(rm(path).then(() => true)));
    return removed ?? false;
  }

  /** The record of one name. Undefined: there is none, or it is damaged. */
  get(reference: ImageReference): Promise<RefRecord | undefined> {
    return this.#read(fileOf(reference));
  }

  /** All records, sorted by name; damaged ones are left out, and removed when `clean` is given. */
  async all(clean = false): Promise<RefRecord[]> {
    const records: RefRecord[] = [];
    for (const name of await this.#blobs.names('refs')) {
      const record = await this.#read(`refs/${name}`);
      if (record) records.push(record);
      else if (clean) await rm(join(this.#blobs.directory, 'refs', name), { force: true });
    }
    return records.sort((a, b) => (a.reference.toString() < b.reference.toString() ? -1 : 1));
  }

  async #read(name: string): Promise<RefRecord | undefined> {
    const path = join(this.#blobs.directory, name);
    const bytes = await storing(`read ${path}`, () => unlessMissing(readFile(path)));
    if (!bytes) return undefined;
    try {
      const { reference, ...rest } = check('record', RECORD, parseJson('record', bytes));
      const parsed = parseReference(reference);
      return fileOf(parsed) === name ? { reference: parsed, ...rest } : undefined;
    } catch (error) {
      if (VmforkError.is(error)) return undefined;
      throw error;
    }
  }
}

const fileOf = (reference: ImageReference) =>
  `refs/${splitDigest(sha256(Buffer.from(reference.toString()))).hex}.json`;
