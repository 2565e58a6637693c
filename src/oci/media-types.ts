// Kinds of documents and layers: OCI image specification (media-types.md) and Docker's image manifest version 2, schema 2.

import { VmforkError } from '../errors.js';

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const OCI_LAYER = 'application/vnd.oci.image.layer.v1.tar';
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';

const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';
const DOCKER_LAYER = 'application/vnd.docker.image.rootfs.diff.tar';
// Layers that their publisher wants fetched from elsewhere. We ask the registry only, so that an image cannot send us
// to any address it likes.
const FOREIGN = [
  'application/vnd.oci.image.layer.nondistributable.v1.tar',
  'application/vnd.docker.image.rootfs.foreign.diff.tar',
];

/** What a request for a manifest accepts. */
export const ACCEPT = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(', ');

/** How a layer is packed. */
export type Compression = 'none' | 'gzip' | 'zstd';

export const isIndex = (mediaType: string) => mediaType === OCI_INDEX || mediaType === DOCKER_LIST;
export const isManifest = (mediaType: string) =>
  mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST;
export const isConfig = (mediaType: string) =>
  mediaType === OCI_CONFIG || mediaType === DOCKER_CONFIG;

export function isForeign(mediaType: string): boolean {
  return FOREIGN.some((prefix) => mediaType.startsWith(prefix));
}

/** How a layer of this kind is packed. Throws `VMF_IMAGE_UNSUPPORTED` when it is no layer that we can read. */
export function compressionOf(mediaType: string): Compression {
  for (const kind of [OCI_LAYER, DOCKER_LAYER, ...FOREIGN]) {
    if (mediaType === kind) return 'none';
    if (mediaType === `${kind}+gzip` || mediaType === `${kind}.gzip`) return 'gzip';
    if (mediaType === `${kind}+zstd` || mediaType === `${kind}.zstd`) return 'zstd';
  }
  throw new VmforkError('VMF_IMAGE_UNSUPPORTED', `layer of type ${mediaType.slice(0, 100)}`);
}
