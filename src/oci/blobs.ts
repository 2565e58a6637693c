// Content-addressed files that several processes write and read at once.
//
//   blobs/ALGORITHM/HEX   whole and checked; never changed after the rename that put it there
//   temp/OWNER[-DIGEST]   being written by a process (src/oci/owner.ts)
//   partial/DIGEST        the beginning of a blob whose download was cut off
//   leases/OWNER          the digests that a process is about to refer to
//   sweeps/OWNER          a process is deleting what nobody refers to
//   rootfs/KEY            root filesystems built from layers (src/oci/rootfs/cache.ts)

import { constants } from 'node:fs';
import {
  type FileHandle,
  link,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isOwnerAlive, ownedName, suffixOf } from '../owner.js';
import { checkDigest, isDigest, splitDigest } from './digest.js';
import { hasErrno, storing, unlessMissing } from './failure.js';
import { removeAbandoned } from './rootfs/cache.js';

const FOLDERS = [
  'blobs/sha256',
  'blobs/sha512',
  'temp',
  'partial',
  'leases',
  'sweeps',
  'refs',
  'rootfs',
];
const PRIVATE = 0o700;
const READ_ONLY = 0o444;
const OPEN_PARTIAL = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;

/** A blob that is being written. It ends with `commit()`, `keep()` or `discard()`. */
export interface PendingBlob {
  readonly handle: FileHandle;
  readonly path: string;
  readonly digest: string;
}

export class BlobStore {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** Makes the folders that are missing, and collects what dead processes left behind. */
  static open(directory: string): Promise<BlobStore> {
    return storing(`open ${directory}`, async () => {
      await mkdir(directory, { recursive: true, mode: PRIVATE });
      for (const folder of FOLDERS) await mkdir(join(directory, folder), { recursive: true });
      const store = new BlobStore(directory);
      await store.recover();
      return store;
    });
  }

  /** Folder of the root filesystems that were built from its layers. */
  get rootfsDirectory(): string {
    return join(this.directory, 'rootfs');
  }

  pathOf(digest: string): string {
    const { algorithm, hex } = splitDigest(digest);
    return join(this.directory, 'blobs', algorithm, hex);
  }

  /** Size of a blob in bytes; undefined when it is not there. */
  async size(digest: string): Promise<number | undefined> {
    const path = this.pathOf(digest);
    const found = await storing(`stat ${path}`, () => unlessMissing(stat(path)));
    return found?.isFile() ? found.size : undefined;
  }

  /** The content of a small blob, checked. Undefined when it is not there. */
  async read(digest: string): Promise<Buffer | undefined> {
    const path = this.pathOf(digest);
    const bytes = await storing(`read ${path}`, () => unlessMissing(readFile(path)));
    if (bytes) checkDigest('stored content', digest, bytes);
    return bytes;
  }

  /** Stores a small blob. */
  async write(digest: string, bytes: Uint8Array): Promise<void> {
    checkDigest('content', digest, bytes);
    if ((await this.size(digest)) === bytes.length) return;
    await this.#replace(this.pathOf(digest), bytes, READ_ONLY);
  }

  /** Begins a blob, with what an earlier download got. */
  begin(digest: string): Promise<PendingBlob> {
    const path = join(this.directory, 'temp', ownedName(partialName(digest)));
    return storing(`create ${path}`, async () => {
      // Whoever renames the partial file first owns it; others begin anew.
      await unlessMissing(rename(this.#partialPath(digest), path));
      return { handle: await open(path, OPEN_PARTIAL, 0o600), path, digest };
    });
  }

  /** Publishes a blob whose digest the caller has checked. */
  commit({ handle, path, digest }: PendingBlob): Promise<void> {
    return storing(`store ${digest}`, async () => {
      await handle.sync();
      await handle.chmod(READ_ONLY);
      await handle.close();
      const final = this.pathOf(digest);
      await rename(path, final);
      await syncDirectory(dirname(final));
    });
  }

  /** Puts a blob aside for a later attempt to go on with. */
  async keep({ handle, path, digest }: PendingBlob): Promise<void> {
    await handle.close();
    await storing(`keep ${path}`, () => unlessMissing(rename(path, this.#partialPath(digest))));
  }

  /** Throws a blob away that is not what it should be. */
  async discard({ handle, path }: PendingBlob): Promise<void> {
    await handle.close();
    await storing(`remove ${path}`, () => rm(path, { force: true }));
  }

  /** Writes a file of the store so that it is there whole or not at all. `name` is relative to the store. */
  async writeDocument(name: string, json: unknown): Promise<void> {
    const bytes = Buffer.from(`${JSON.stringify(json, undefined, 2)}\n`);
    await this.#replace(join(this.directory, name), bytes, 0o600);
  }

  /** Like {@link writeDocument}, but leaves alone what another process wrote first. */
  async createDocument(name: string, json: unknown): Promise<void> {
    const temp = join(this.directory, 'temp', ownedName());
    const path = join(this.directory, name);
    await this.#replace(temp, Buffer.from(`${JSON.stringify(json)}\n`), 0o600);
    await storing(`create ${path}`, async () => {
      try {
        await link(temp, path);
      } catch (error) {
        if (!hasErrno(error, 'EEXIST')) throw error;
      } finally {
        await rm(temp, { force: true });
      }
    });
  }

  /** The names in one of the store's folders. */
  names(folder: string): Promise<string[]> {
    return storing(`list ${folder}`, () => readdir(join(this.directory, folder)));
  }

  /** The names in a folder of owned files whose owners live. Those of the dead are removed, or kept for resuming. */
  async livingNames(folder: string): Promise<string[]> {
    const living: string[] = [];
    for (const name of await this.names(folder)) {
      const path = join(this.directory, folder, name);
      const found = await storing(`stat ${path}`, () => unlessMissing(stat(path)));
      if (found && isOwnerAlive(name, found.mtimeMs)) living.push(name);
      else if (found) await storing(`remove ${path}`, () => this.#collect(path, suffixOf(name)));
    }
    return living;
  }

  /** Collects the files that dead processes were writing. */
  async recover(): Promise<void> {
    for (const folder of ['temp', 'leases', 'sweeps']) await this.livingNames(folder);
    await storing('recover rootfs', () => removeAbandoned(this.rootfsDirectory));
  }

  async #collect(path: string, suffix: string | undefined): Promise<void> {
    const digest = suffix?.replace('-', ':');
    if (digest && isDigest(digest)) await unlessMissing(rename(path, this.#partialPath(digest)));
    else await rm(path, { force: true });
  }

  #partialPath(digest: string): string {
    return join(this.directory, 'partial', partialName(digest));
  }

  #replace(path: string, bytes: Uint8Array, mode: number): Promise<void> {
    const temp = join(this.directory, 'temp', ownedName());
    return storing(`write ${path}`, async () => {
      try {
        await writeSynced(temp, bytes, mode);
        await rename(temp, path);
        await syncDirectory(dirname(path));
      } catch (error) {
        await rm(temp, { force: true });
        throw error;
      }
    });
  }
}

const partialName = (digest: string) => digest.replace(':', '-');

async function writeSynced(path: string, bytes: Uint8Array, mode: number): Promise<void> {
  const handle = await open(path, 'wx', mode);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Makes a rename last beyond a power cut. */
async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
