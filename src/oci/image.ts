// An image in the store: its config, and its layers to read.

import type { Readable } from 'node:stream';
import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import { openLayerStream } from './layer-stream.js';
import { Lease } from './lease.js';
import { compressionOf } from './media-types.js';
import type { ImageReference } from './reference.js';
import type { ImageConfig, Manifest } from './schemas.js';

/** A layer of a stored image. */
export interface ImageLayer {
  /** Digest of the layer as it is stored, which may be compressed. */
  readonly digest: string;
  /** Its kind, which says how it is packed. */
  readonly mediaType: string;
  /** Size as it is stored, in bytes. */
  readonly sizeBytes: number;
  /** Digest of the layer once unpacked: the identity of its content. */
  readonly diffId: string;
}

/** What makes up a {@link StoredImage}. */
export interface ImageParts {
  readonly reference: ImageReference;
  readonly digest: string;
  readonly manifest: Manifest;
  readonly config: ImageConfig;
}

/** An image in an {@link ImageStore}. It stays readable until it is removed and the store's garbage collected. */
export class StoredImage {
  /** The name it was pulled or imported under. */
  readonly reference: ImageReference;
  /** Digest of its manifest. */
  readonly digest: string;
  /** Its config, checked: `config.config` says how to run it. */
  readonly config: ImageConfig;
  /** Its layers, the lowest first. */
  readonly layers: readonly ImageLayer[];
  readonly #blobs: BlobStore;

  /** @internal Made by the store. */
  constructor(blobs: BlobStore, { reference, digest, manifest, config }: ImageParts) {
    this.#blobs = blobs;
    this.reference = reference;
    this.digest = digest;
    this.config = config;
    this.layers = pairLayers(manifest, config);
  }

  /** Size of the image as it is stored, in bytes, without its config. */
  get sizeBytes(): number {
    return this.layers.reduce((sum, layer) => sum + layer.sizeBytes, 0);
  }

  /** @internal Where the store keeps root filesystems. */
  get rootfsDirectory(): string {
    return this.#blobs.rootfsDirectory;
  }

  /** @internal Can keep the image's blobs from the store's collections. */
  lease(): Lease {
    return new Lease(this.#blobs);
  }

  /**
   * Opens a layer as the tar stream that it packs. Both its digests are checked on the way; the stream ends well only
   * when all of it was right.
   *
   * The stream fails with `VMF_IMAGE_DIGEST` when the content is not what the image says, with `VMF_IMAGE_INVALID` when
   * it cannot be unpacked, with `VMF_ABORTED` when the signal fires.
   * @throws VmforkError `VMF_OPTIONS` for an index that there is not, `VMF_STORE` when the layer is gone.
   */
  async openLayer(index: number, options: { signal?: AbortSignal } = {}): Promise<Readable> {
    const layer = this.layers[index];
    if (!layer) {
      const detail = `layer must be 0 to ${this.layers.length - 1}, got ${index}`;
      throw new VmforkError('VMF_OPTIONS', detail);
    }
    const path = this.#blobs.pathOf(layer.digest);
    const compression = compressionOf(layer.mediaType);
    return openLayerStream({ path, compression, ...layer }, options.signal);
  }
}

function pairLayers(manifest: Manifest, config: ImageConfig): ImageLayer[] {
  const diffIds = config.rootfs.diff_ids;
  if (diffIds.length !== manifest.layers.length) {
    const detail = `${manifest.layers.length} layers but ${diffIds.length} diff_ids`;
    throw new VmforkError('VMF_IMAGE_INVALID', detail);
  }
  return manifest.layers.map(({ digest, mediaType, size }, index) => ({
    digest,
    mediaType,
    sizeBytes: size,
    diffId: diffIds[index] as string,
  }));
}
