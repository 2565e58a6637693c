// Pulling: a name becomes an image in the store.

import { mapLimited } from '../concurrency.js';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { type Credentials, dockerCredentials } from './credentials.js';
import { checkDigest, digestMismatch, sha256, splitDigest } from './digest.js';
import { downloadBlob } from './download.js';
import { type RetryPolicy, readBody } from './http.js';
import type { ImageParts } from './image.js';
import type { KeyedMutex } from './keyed-mutex.js';
import { Lease } from './lease.js';
import { isForeign } from './media-types.js';
import type { Platform } from './platform.js';
import { layerProgress, type OnProgress } from './progress.js';
import type { ImageReference } from './reference.js';
import { RegistryClient } from './registry.js';
import { type CheckedDocument, embedded, resolveConfig, resolveManifest } from './resolve.js';
import type { Descriptor } from './schemas.js';
import { blobsOf, uniqueBlobs } from './transfer.js';

export interface PullJob {
  readonly reference: ImageReference;
  readonly platform: Platform;
  /** Null: anonymous. Undefined: what Docker's config has. */
  readonly auth: Credentials | null | undefined;
  readonly insecure: boolean;
  readonly concurrency: number;
  readonly retry: Partial<RetryPolicy> | undefined;
  readonly signal: AbortSignal | undefined;
  readonly onProgress: OnProgress | undefined;
}

/** What a pull found out; all blobs are in the store. */
export interface PulledImage extends ImageParts {
  readonly target: string;
}

/** Brings an image into the store. `publish` gives it its name while its blobs are still protected. */
export async function pullImage(
  blobs: BlobStore,
  downloads: KeyedMutex,
  job: PullJob,
  publish: (image: PulledImage) => Promise<void>,
): Promise<PulledImage> {
  // The first failure stops the downloads beside it.
  const failed = new AbortController();
  const signal = job.signal ? AbortSignal.any([job.signal, failed.signal]) : failed.signal;
  const registry = openRegistry(job, signal);
  const lease = new Lease(blobs);
  try {
    const pull = new Pull(blobs, downloads, registry, lease, { ...job, signal });
    const image = await pull.run(() => failed.abort());
    await publish(image);
    return image;
  } finally {
    await lease.release();
    await registry.close();
  }
}

function openRegistry({ reference, auth, insecure, retry }: PullJob, signal: AbortSignal) {
  const findCredentials = async () => {
    if (auth === undefined) return dockerCredentials(reference.registry, signal);
    return auth ?? undefined;
  };
  return new RegistryClient(reference.registry, { insecure, findCredentials, signal, retry });
}

class Pull {
  readonly #blobs: BlobStore;
  readonly #downloads: KeyedMutex;
  readonly #registry: RegistryClient;
  readonly #lease: Lease;
  readonly #job: PullJob;

  constructor(
    blobs: BlobStore,
    downloads: KeyedMutex,
    registry: RegistryClient,
    lease: Lease,
    job: PullJob,
  ) {
    this.#blobs = blobs;
    this.#downloads = downloads;
    this.#registry = registry;
    this.#lease = lease;
    this.#job = job;
  }

  async run(stopOthers: () => void): Promise<PulledImage> {
    const { reference, platform, onProgress, concurrency, signal } = this.#job;
    onProgress?.({ phase: 'resolve', doneBytes: 0, totalBytes: 0 });
    const top = await this.#fetchTop();
    const resolved = await resolveManifest(top, platform, (entry) => this.#fetchManifest(entry));
    const { manifest, digest } = resolved;
    const needed = uniqueBlobs(blobsOf(manifest));
    await this.#lease.protect([digest, ...needed.map((blob) => blob.digest)], signal);
    await this.#blobs.write(digest, resolved.bytes);
    const { config, bytes } = await resolveConfig(manifest, platform, (entry) =>
      this.#fetchConfig(entry),
    );
    await this.#blobs.write(manifest.config.digest, bytes);
    await mapLimited(needed, concurrency, (blob) => this.#obtain(blob), stopOthers);
    const totalBytes = needed.reduce((sum, { size }) => sum + size, 0);
    onProgress?.({ phase: 'done', doneBytes: totalBytes, totalBytes });
    return { reference, digest, manifest, config, target: top.digest };
  }

  /** What the name leads to. */
  async #fetchTop(): Promise<CheckedDocument> {
    const { repository, tag, digest } = this.#job.reference;
    const wanted = digest ?? tag ?? '';
    const { bytes, mediaType, digest: said } = await this.#registry.manifest(repository, wanted);
    const what = `manifest of ${this.#job.reference.familiar()}`;
    if (digest) checkDigest(what, digest, bytes);
    const { algorithm } = splitDigest(said ?? '');
    if (said && algorithm === 'sha256' && said !== sha256(bytes)) {
      throw digestMismatch(what, said, sha256(bytes));
    }
    return { bytes, mediaType, digest: digest ?? sha256(bytes) };
  }

  async #fetchManifest({ digest }: Descriptor): Promise<Buffer> {
    const stored = await this.#blobs.read(digest);
    if (stored) return stored;
    return (await this.#registry.manifest(this.#job.reference.repository, digest)).bytes;
  }

  async #fetchConfig({ digest, size }: Descriptor): Promise<Buffer> {
    const stored = await this.#blobs.read(digest);
    if (stored) return stored;
    return this.#registry.retrying(async () => {
      const { repository } = this.#job.reference;
      const response = await this.#registry.blob(repository, digest, 0);
      return readBody(response, size, this.#job.signal);
    });
  }

  /** Gets one blob, unless it is there. */
  #obtain(descriptor: Descriptor): Promise<void> {
    const { onProgress, signal } = this.#job;
    const { digest, size } = descriptor;
    return this.#downloads.run(digest, signal, async () => {
      if ((await this.#blobs.size(digest)) === size) {
        onProgress?.({ phase: 'exists', digest, doneBytes: size, totalBytes: size });
        return;
      }
      const bytes = embedded(descriptor);
      if (bytes) await this.#blobs.write(digest, bytes);
      else await this.#download(descriptor);
    });
  }

  async #download(descriptor: Descriptor): Promise<void> {
    const { reference, onProgress, signal } = this.#job;
    const onBytes = layerProgress(onProgress, 'download', descriptor);
    try {
      const { repository } = reference;
      await downloadBlob(this.#blobs, this.#registry, descriptor, { repository, signal, onBytes });
    } catch (error) {
      if (!isForeign(descriptor.mediaType) || !VmforkError.is(error)) throw error;
      if (error.code !== 'VMF_IMAGE_NOT_FOUND') throw error;
      const detail = `the registry does not hold layer ${descriptor.digest}, only addresses of it`;
      throw new VmforkError('VMF_IMAGE_UNSUPPORTED', detail, { cause: error });
    }
  }
}
