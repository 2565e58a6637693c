// From what a name leads to (an index or a manifest) to the one image for a platform, wherever the documents come from.

import { VmforkError } from '../errors.js';
import { checkDigest } from './digest.js';
import { MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH } from './limits.js';
import {
  compressionOf,
  isConfig,
  isIndex,
  isManifest,
  OCI_INDEX,
  OCI_MANIFEST,
} from './media-types.js';
import { choosePlatform, formatPlatform, isCompatible, type Platform } from './platform.js';
import {
  type Descriptor,
  type ImageConfig,
  type Index,
  type Manifest,
  parseImageConfig,
  parseIndex,
  parseJson,
  parseManifest,
} from './schemas.js';

/** A document whose digest has been checked. */
export interface CheckedDocument {
  readonly bytes: Buffer;
  readonly digest: string;
  /** What its source says that it is. */
  readonly mediaType: string | undefined;
}

export interface ResolvedManifest {
  readonly bytes: Buffer;
  readonly digest: string;
  readonly manifest: Manifest;
}

/** Fetches the bytes of a document; checking them is not its job. */
export type FetchDocument = (descriptor: Descriptor) => Promise<Buffer>;

/** Follows indexes down to the manifest for a platform, and checks that it is a container image. */
export async function resolveManifest(
  top: CheckedDocument,
  platform: Platform,
  fetch: FetchDocument,
): Promise<ResolvedManifest> {
  let at = top;
  for (let depth = 0; depth <= MAX_INDEX_DEPTH; depth++) {
    const mediaType = kindOf(at);
    if (isManifest(mediaType)) {
      const manifest = parseManifest(at.bytes);
      refuseArtifacts(manifest);
      return { bytes: at.bytes, digest: at.digest, manifest };
    }
    const chosen = choose(parseIndex(at.bytes), platform);
    const bytes = await fetchChecked(chosen, fetch);
    at = { bytes, digest: chosen.digest, mediaType: chosen.mediaType };
  }
  throw new VmforkError('VMF_IMAGE_INVALID', `indexes more than ${MAX_INDEX_DEPTH} deep`);
}

/** Fetches and checks the config of an image. Throws when it is for another platform. */
export async function resolveConfig(
  manifest: Manifest,
  platform: Platform,
  fetch: FetchDocument,
): Promise<{ config: ImageConfig; bytes: Buffer }> {
  const bytes = await fetchChecked(manifest.config, fetch);
  const config = parseImageConfig(bytes);
  if (!isCompatible(platform, config)) {
    const detail = `it is for ${formatPlatform(config)}, not for ${formatPlatform(platform)}`;
    throw new VmforkError('VMF_IMAGE_UNSUPPORTED', detail);
  }
  return { config, bytes };
}

/** The bytes that a descriptor describes, taken from it when it has them ("Embedded Content" in descriptor.md). */
export async function fetchChecked(descriptor: Descriptor, fetch: FetchDocument): Promise<Buffer> {
  const { digest, size } = descriptor;
  if (size > MAX_DOCUMENT_BYTES) {
    const detail = `${digest} has ${size} bytes, more than ${MAX_DOCUMENT_BYTES}`;
    throw new VmforkError('VMF_IMAGE_INVALID', detail);
  }
  const bytes = embedded(descriptor) ?? (await fetch(descriptor));
  if (bytes.length !== size) {
    const detail = `${digest} has ${bytes.length} bytes instead of ${size}`;
    throw new VmforkError('VMF_IMAGE_DIGEST', detail);
  }
  checkDigest('document', digest, bytes);
  return bytes;
}

/** Content that a descriptor carries along. */
export function embedded({ data }: Descriptor): Buffer | undefined {
  return data ? Buffer.from(data, 'base64') : undefined;
}

function choose(index: Index, platform: Platform): Descriptor {
  const usable = index.manifests.filter(
    ({ mediaType }) => isIndex(mediaType) || isManifest(mediaType),
  );
  const chosen = choosePlatform(platform, usable);
  if (chosen) return chosen;
  const offered = usable.flatMap((entry) => (entry.platform ? formatPlatform(entry.platform) : []));
  const list = [...new Set(offered)].slice(0, 20).join(', ').slice(0, 300) || 'nothing';
  const detail = `no image for ${formatPlatform(platform)}; there is ${list}`;
  throw new VmforkError('VMF_IMAGE_NOT_FOUND', detail);
}

/** What a document is. Source and content must not disagree, or one reader sees another image than the next. */
function kindOf({ bytes, mediaType: said }: CheckedDocument): string {
  const json = parseJson('manifest', bytes) as Record<string, unknown> | null;
  const own = typeof json?.mediaType === 'string' ? json.mediaType : undefined;
  const isKnown = said !== undefined && (isIndex(said) || isManifest(said));
  if (isKnown && own !== undefined && own !== said) {
    const detail = `it is called ${said} and calls itself ${own.slice(0, 100)}`;
    throw new VmforkError('VMF_IMAGE_INVALID', detail);
  }
  const kind = isKnown ? said : (own ?? guessKind(json));
  if (kind && (isIndex(kind) || isManifest(kind))) return kind;
  const what = json?.schemaVersion === 1 ? 'Docker schema 1' : String(kind ?? said).slice(0, 100);
  throw new VmforkError('VMF_IMAGE_UNSUPPORTED', `manifest of type ${what}`);
}

/** OCI documents need not name their type; Docker's always do. */
function guessKind(json: Record<string, unknown> | null): string | undefined {
  if (json?.schemaVersion !== 2) return undefined;
  if ('manifests' in json) return OCI_INDEX;
  return 'layers' in json ? OCI_MANIFEST : undefined;
}

/** Registries also hold charts, signatures and such, which look like images. */
function refuseArtifacts(manifest: Manifest): void {
  const { config, artifactType, layers } = manifest;
  if (artifactType || !isConfig(config.mediaType)) {
    const kind = (artifactType || config.mediaType).slice(0, 100);
    throw new VmforkError('VMF_IMAGE_UNSUPPORTED', `it is no container image but ${kind}`);
  }
  for (const { mediaType } of layers) compressionOf(mediaType);
}
