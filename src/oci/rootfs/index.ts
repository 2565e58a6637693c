// Root filesystem images from the layers of an OCI image.

export {
  type BuildRootfsOptions,
  buildRootfs,
  type RootfsInfo,
  type RootfsProgress,
} from './build.js';
export { type EnsureRootfsOptions, ensureRootfs } from './cache.js';
export type { LayerSource } from './layer-source.js';
export type { RootfsLimits } from './limits.js';
