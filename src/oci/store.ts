// The image store: pulls and imports images, lists and removes them, and deletes what nothing refers to any more.

import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import * as v from 'valibot';
import { VmforkError } from '../errors.js';
import { cacheDirectory } from '../kvm/guest.js';
import { checkOptions, object, type Rules, WAIT_OPTIONS } from '../options.js';
import { throwIfAborted } from '../waiting.js';
import { BlobStore } from './blobs.js';
import type { Credentials } from './credentials.js';
import { isDigest } from './digest.js';
import { storing } from './failure.js';
import { collectGarbage, type Garbage } from './garbage.js';
import type { RetryPolicy } from './http.js';
import { type ImageParts, StoredImage } from './image.js';
import { KeyedMutex } from './keyed-mutex.js';
import { isCompatible, parsePlatform } from './platform.js';
import type { OnProgress } from './progress.js';
import { ImageReference, parseReference } from './reference.js';
import { type RefRecord, RefStore } from './refs.js';
import { check, type Manifest, parseImageConfig, parseJson, parseManifest } from './schemas.js';
import { blobsOf } from './transfer.js';

const VERSION = 1;
const MARK = v.object({ version: v.number() });
const DEFAULT_PLATFORM = 'linux/amd64';
const DEFAULT_CONCURRENCY = 4;

/** Options of `ImageStore.open()`. */
export interface ImageStoreOptions {
  /** Folder of the store, made when it is missing. Default: `images` in the cache of vmfork. */
  dir?: string | undefined;
}

/** Options of `store.pull()`. */
export interface PullOptions {
  /** For which platform, `os/architecture[/variant]`. Default `linux/amd64`. */
  platform?: string | undefined;
  /** Who to be to the registry; null for nobody. Default: what `docker login` left in Docker's config.json. */
  auth?: Credentials | null | undefined;
  /** Accept plain HTTP and unverified certificates. Default only for registries on this machine. */
  insecure?: boolean | undefined;
  /** Layers downloaded at once, 1 to 32. Default 4. */
  concurrency?: number | undefined;
  /**
   * Patience: tries in a row that bring nothing (default 5), the first wait between them in ms (default 500, doubled each
   * time), and the longest silence of the registry in ms (default 30000).
   */
  retry?: Partial<RetryPolicy> | undefined;
  /** Gives up with `VMF_ABORTED`. What came by then is kept for the next pull. */
  signal?: AbortSignal | undefined;
  onProgress?: OnProgress | undefined;
}

/** Options of `store.importFrom()`. */
export interface ImportOptions {
  /**
   * Name for the image. An archive with several images needs it to be one of their names. Default: the name that the
   * archive gives; a layout that gives only a tag is called after its file.
   */
  reference?: string | undefined;
  /** For which platform, `os/architecture[/variant]`. Default `linux/amd64`. */
  platform?: string | undefined;
  /** Gives up with `VMF_ABORTED`. */
  signal?: AbortSignal | undefined;
  onProgress?: OnProgress | undefined;
}

const text = {
  accepts: 'a non-empty string',
  test: (value: unknown) => typeof value === 'string' && value !== '' && !value.includes('\0'),
};
const onProgress = { accepts: 'a function', test: (value: unknown) => typeof value === 'function' };
const { signal } = WAIT_OPTIONS as { signal: Rules[string] };
const OPEN_RULES: Rules = { dir: text };
const IMPORT_RULES = { reference: text, platform: text, signal, onProgress } as Rules;
const PULL_RULES = {
  platform: text,
  auth: {
    accepts: 'null, { username, password }, { identityToken } or { registryToken }',
    test: isAuth,
  },
  insecure: { accepts: 'a boolean', test: (value: unknown) => typeof value === 'boolean' },
  concurrency: { accepts: 'an integer from 1 to 32', test: isBetween(1, 32) },
  retry: object('{ attempts: 1 to 100, delayMs: 0 to 60000, silenceMs: 1 to 600000 }', isRetry),
  signal,
  onProgress,
} as Rules;

/**
 * Images on disk, by content. Several processes may use one store at once; a crash at any moment leaves it usable, and a
 * download that was cut off goes on where it stopped.
 */
export class ImageStore {
  /** Folder of the store. */
  readonly dir: string;
  readonly #blobs: BlobStore;
  readonly #refs: RefStore;
  readonly #downloads = new KeyedMutex();

  private constructor(blobs: BlobStore) {
    this.dir = blobs.directory;
    this.#blobs = blobs;
    this.#refs = new RefStore(blobs);
  }

  /**
   * Opens a store, and collects what processes that died left half written.
   * @throws VmforkError `VMF_STORE` when the folder cannot be made or used.
   */
  static async open(options: ImageStoreOptions = {}): Promise<ImageStore> {
    checkOptions('open', OPEN_RULES, options);
    const blobs = await BlobStore.open(resolve(options.dir ?? join(cacheDirectory(), 'images')));
    await checkVersion(blobs);
    return new ImageStore(blobs);
  }

  /**
   * Pulls an image from its registry, by the OCI distribution specification. Layers that the store has are not fetched
   * again; a reference with a digest whose image is complete in the store asks the registry nothing.
   * @throws VmforkError `VMF_IMAGE_REFERENCE`, `VMF_IMAGE_NOT_FOUND`, `VMF_IMAGE_DIGEST`, `VMF_IMAGE_INVALID`,
   *   `VMF_IMAGE_UNSUPPORTED`, `VMF_REGISTRY`, `VMF_REGISTRY_AUTH`, `VMF_STORE`, `VMF_OPTIONS`, `VMF_ABORTED`
   */
  async pull(reference: string | ImageReference, options: PullOptions = {}): Promise<StoredImage> {
    checkOptions('pull', PULL_RULES, options);
    throwIfAborted('pull', options.signal);
    const name = toReference(reference);
    const platform = parsePlatform(options.platform ?? DEFAULT_PLATFORM);
    const known = name.digest ? await this.#load(await this.#refs.get(name)) : undefined;
    if (known && isCompatible(platform, known.config)) {
      return new StoredImage(this.#blobs, known);
    }
    const job = {
      reference: name,
      platform,
      auth: options.auth,
      insecure: options.insecure ?? false,
      concurrency: options.concurrency ?? DEFAULT_CONCURRENCY,
      retry: options.retry,
      signal: options.signal,
      onProgress: options.onProgress,
    };
    // Loaded when it is wanted: an HTTP client takes longer to load than a stored image to run.
    const { pullImage } = await import('./pull.js');
    const parts = await pullImage(this.#blobs, this.#downloads, job, (image) => this.#name(image));
    return new StoredImage(this.#blobs, parts);
  }

  /**
   * Imports an image from an OCI layout (a folder, or a tar file of one) or from what `docker save` writes. The tar file
   * may be compressed with gzip or zstd.
   * @throws VmforkError `VMF_IMAGE_NOT_FOUND`, `VMF_IMAGE_DIGEST`, `VMF_IMAGE_INVALID`, `VMF_IMAGE_UNSUPPORTED`,
   *   `VMF_IMAGE_REFERENCE`, `VMF_STORE`, `VMF_OPTIONS`, `VMF_ABORTED`
   */
  async importFrom(path: string, options: ImportOptions = {}): Promise<StoredImage> {
    checkOptions('importFrom', IMPORT_RULES, options);
    throwIfAborted('import', options.signal);
    const job = {
      path: resolve(path),
      reference: options.reference === undefined ? undefined : parseReference(options.reference),
      platform: parsePlatform(options.platform ?? DEFAULT_PLATFORM),
      signal: options.signal,
      onProgress: options.onProgress,
    };
    const { importImage } = await import('./import.js');
    const parts = await importImage(this.#blobs, job, (image) => this.#name(image));
    return new StoredImage(this.#blobs, parts);
  }

  /** All images, sorted by name. What is damaged or lacks layers is left out. */
  async list(): Promise<StoredImage[]> {
    const images: StoredImage[] = [];
    for (const record of await this.#refs.all()) {
      const parts = await this.#load(record);
      if (parts) images.push(new StoredImage(this.#blobs, parts));
    }
    return images;
  }

  /**
   * The image of a name, or of a manifest's digest (`sha256:…`). One that lacks a layer counts as missing.
   * @throws VmforkError `VMF_IMAGE_NOT_FOUND`, `VMF_IMAGE_REFERENCE`, `VMF_STORE`
   */
  async inspect(reference: string | ImageReference): Promise<StoredImage> {
    for (const record of await this.#find(reference)) {
      const parts = await this.#load(record);
      if (parts) return new StoredImage(this.#blobs, parts);
    }
    throw notStored(reference);
  }

  /**
   * Forgets a name, or with a manifest's digest all names of that image. `gc()` frees the space.
   * @throws VmforkError `VMF_IMAGE_NOT_FOUND`, `VMF_IMAGE_REFERENCE`, `VMF_STORE`
   */
  async remove(reference: string | ImageReference): Promise<void> {
    let removed = false;
    for (const record of await this.#find(reference)) {
      if (await this.#refs.delete(record.reference)) removed = true;
    }
    if (!removed) throw notStored(reference);
  }

  /**
   * Deletes what no image in the store uses, beginnings of layers and root filesystems that were built in it included,
   * and what processes that died left behind. What a machine has attached stays readable to it. It may run beside pulls and
   * imports, of this process and of others; what they work on stays.
   * @throws VmforkError `VMF_STORE`
   */
  gc(): Promise<Garbage> {
    return collectGarbage(this.#blobs, this.#refs);
  }

  #name({ reference, digest, target }: ImageParts & { target: string }): Promise<void> {
    return this.#refs.put({ reference, manifest: digest, target });
  }

  async #find(reference: string | ImageReference): Promise<RefRecord[]> {
    if (isDigest(reference)) {
      return (await this.#refs.all()).filter((record) => record.manifest === reference);
    }
    const record = await this.#refs.get(toReference(reference));
    return record ? [record] : [];
  }

  /** Reads an image's documents. Undefined when something of the image is gone, or a document damaged. */
  async #load(record: RefRecord | undefined): Promise<ImageParts | undefined> {
    if (!record) return undefined;
    try {
      const { reference, manifest: digest } = record;
      const manifestBytes = await this.#blobs.read(digest);
      const manifest = manifestBytes && parseManifest(manifestBytes);
      const configBytes = manifest && (await this.#blobs.read(manifest.config.digest));
      if (!manifest || !configBytes) return undefined;
      const config = parseImageConfig(configBytes);
      return (await this.#isComplete(manifest))
        ? { reference, digest, manifest, config }
        : undefined;
    } catch (error) {
      const isDamage = VmforkError.is(error) && error.code.startsWith('VMF_IMAGE_');
      if (isDamage) return undefined;
      throw error;
    }
  }

  async #isComplete(manifest: Manifest): Promise<boolean> {
    for (const { digest, size } of blobsOf(manifest)) {
      if ((await this.#blobs.size(digest)) !== size) return false;
    }
    return true;
  }
}

/** Another version of this library may lay out its store otherwise. */
async function checkVersion(blobs: BlobStore): Promise<void> {
  await blobs.createDocument('store.json', { version: VERSION });
  const path = join(blobs.directory, 'store.json');
  const bytes = await storing(`read ${path}`, () => readFile(path));
  const version = storeVersion(bytes);
  if (version === VERSION) return;
  const detail = `${blobs.directory} is a store of version ${version}, not ${VERSION}`;
  throw new VmforkError('VMF_STORE', detail, { operation: 'open' });
}

function storeVersion(bytes: Buffer): number | undefined {
  try {
    return check('store.json', MARK, parseJson('store.json', bytes)).version;
  } catch {
    return undefined;
  }
}

function toReference(reference: string | ImageReference): ImageReference {
  return reference instanceof ImageReference ? reference : parseReference(reference);
}

function notStored(reference: string | ImageReference): VmforkError {
  return new VmforkError('VMF_IMAGE_NOT_FOUND', `${reference} is not in the store`);
}

function isBetween(least: number, most: number) {
  return (value: unknown) =>
    Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most;
}

function isRetry(value: object): boolean {
  const { attempts = 1, delayMs = 0, silenceMs = 1, ...rest } = value as Record<string, unknown>;
  const known = isBetween(1, 100)(attempts) && isBetween(0, 60_000)(delayMs);
  return known && isBetween(1, 600_000)(silenceMs) && Object.keys(rest).length === 0;
}

function isAuth(value: unknown): boolean {
  if (value === null) return true;
  if (typeof value !== 'object') return false;
  const members = Object.keys(value).sort().join();
  const known = ['password,username', 'identityToken', 'registryToken'].includes(members);
  return known && Object.values(value).every((member) => typeof member === 'string');
}
