// From a name to a root filesystem that can be attached: the image from the store, from the built-in one, or from its
// registry; its layers as one EROFS image, built once.

import type { Rootfs } from '../container/attach.js';
import type { RunConfig } from '../container/merge-config.js';
import { VmforkError } from '../errors.js';
import { findGuest } from '../kvm/guest.js';
import { checkOptions, object, type Rules } from '../options.js';
import type { StoredImage } from './image.js';
import { type ImageReference, parseReference } from './reference.js';
import {
  ensureRootfs,
  type LayerSource,
  type RootfsInfo,
  type RootfsProgress,
} from './rootfs/index.js';
import type { ImageStore, PullOptions } from './store.js';

/** The image that is there without a registry: Debian's static busybox, as the built guest brings it. */
export const BUILT_IN_IMAGE = 'busybox:latest';

/** Options of `prepareRootfs()`. */
export interface PrepareRootfsOptions {
  /**
   * Folder of the images, which is then the caller's to tidy. Default: `rootfs` in the image's store, whose `gc()` removes
   * what was built from images that are gone.
   */
  dir?: string | undefined;
  /** Gives up with `VMF_ABORTED`. */
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: RootfsProgress) => void) | undefined;
}

/** A root filesystem built from an image; give it to `vm.attach()`. */
export interface PreparedRootfs extends Rootfs, RootfsInfo {
  config: RunConfig;
}

const PREPARE_OPTIONS: Rules = {
  dir: { accepts: 'a path', test: (value) => typeof value === 'string' && value !== '' },
  signal: object('an AbortSignal', (value) => value instanceof AbortSignal),
  onProgress: { accepts: 'a function', test: (value) => typeof value === 'function' },
};

/**
 * The root filesystem of an image, built unless it was before. Rejects with `VMF_LAYER_INVALID` or `VMF_LAYER_LIMIT` for
 * layers that cannot be trusted, `VMF_IMAGE_DIGEST`, `VMF_STORE`, `VMF_SYSTEM`, `VMF_ABORTED`.
 */
export async function prepareRootfs(
  image: StoredImage,
  options: PrepareRootfsOptions = {},
): Promise<PreparedRootfs> {
  checkOptions('prepareRootfs', PREPARE_OPTIONS, options);
  const { dir = image.rootfsDirectory, signal, onProgress } = options;
  const { layers, release } = sourcesOf(image, signal);
  try {
    const info = await ensureRootfs({ dir, layers, signal, onProgress });
    return { ...info, config: runConfigOf(image) };
  } finally {
    await release();
  }
}

/** The layers to build from. From when one is opened they stay in the store until they are released. */
function sourcesOf(
  image: StoredImage,
  signal: AbortSignal | undefined,
): { layers: LayerSource[]; release: () => Promise<void> } {
  const lease = image.lease();
  let kept: Promise<void> | undefined;
  const digests = image.layers.map(({ digest }) => digest);
  const layers = image.layers.map(({ digest, diffId }, index) => ({
    digest,
    diffId,
    async open() {
      kept ??= lease.protect(digests, signal);
      await kept;
      return image.openLayer(index, signal ? { signal } : {});
    },
  }));
  return { layers, release: async () => kept && lease.release() };
}

/**
 * The image of a name: from the store, else for {@link BUILT_IN_IMAGE} the one that came with the guest, else pulled.
 * Rejects as `store.pull()` does.
 */
export async function findImage(
  store: ImageStore,
  reference: string | ImageReference,
  options: PullOptions = {},
): Promise<StoredImage> {
  const name = typeof reference === 'string' ? parseReference(reference) : reference;
  try {
    return await store.inspect(name);
  } catch (error) {
    if (!VmforkError.is(error) || error.code !== 'VMF_IMAGE_NOT_FOUND') throw error;
  }
  if (name.toString() === parseReference(BUILT_IN_IMAGE).toString()) {
    return store.importFrom(findGuest().imagePath, { reference: BUILT_IN_IMAGE });
  }
  return store.pull(name, options);
}

function runConfigOf({ config: { config } }: StoredImage): RunConfig {
  if (!config) return {};
  const { User, Env, Entrypoint, Cmd, Volumes, WorkingDir, StopSignal } = config;
  const members = { User, Env, Entrypoint, Cmd, Volumes, WorkingDir, StopSignal };
  const given = Object.entries(members).filter(
    ([, value]) => value !== undefined && value !== null,
  );
  return Object.fromEntries(given) as RunConfig;
}
