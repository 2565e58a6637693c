// OCI layouts: index.json names images, blobs/ holds all content by digest.

import { VmforkError } from '../errors.js';
import { sha256, splitDigest } from './digest.js';
import {
  type Candidate,
  type ImportContext,
  type ImportedImage,
  nameAfterFile,
  namesOf,
  pick,
} from './import-context.js';
import { readDocument } from './import-source.js';
import { isIndex, isManifest } from './media-types.js';
import { layerProgress } from './progress.js';
import type { ImageReference } from './reference.js';
import { embedded, fetchChecked, resolveConfig, resolveManifest } from './resolve.js';
import { type Descriptor, parseIndex } from './schemas.js';
import { blobsOf, storeStream, uniqueBlobs } from './transfer.js';

const REF_NAME = 'org.opencontainers.image.ref.name';
/** Where containerd and docker save put the whole name, when the other one has the tag only. */
const FULL_NAME = 'io.containerd.image.name';

/** Imports an image of a layout. `index` is its index.json. */
export async function importLayout(context: ImportContext, index: Buffer): Promise<ImportedImage> {
  const { blobs, lease, job } = context;
  const { manifests } = parseIndex(index);
  const { value: entry, reference } = chooseEntry(context, manifests);
  const fetch = (descriptor: Descriptor) => fetchBlob(context, descriptor);
  const bytes = entry === undefined ? index : await fetchChecked(entry, fetch);
  const top = { bytes, digest: entry?.digest ?? sha256(index), mediaType: entry?.mediaType };
  const resolved = await resolveManifest(top, job.platform, fetch);
  const { manifest, digest } = resolved;
  const needed = uniqueBlobs(blobsOf(manifest));
  await lease.protect([digest, ...needed.map((blob) => blob.digest)], job.signal);
  await blobs.write(digest, resolved.bytes);
  const { config, bytes: configBytes } = await resolveConfig(manifest, job.platform, fetch);
  await blobs.write(manifest.config.digest, configBytes);
  for (const blob of needed) await copyBlob(context, blob);
  return { reference, digest, manifest, config, target: top.digest };
}

/** The entry of the image that is meant; undefined when all of index.json is one image for several platforms. */
function chooseEntry(
  { job }: ImportContext,
  manifests: readonly Descriptor[],
): { value: Descriptor | undefined; reference: ImageReference } {
  const usable = manifests.filter(({ mediaType }) => isIndex(mediaType) || isManifest(mediaType));
  const candidates: Candidate<Descriptor | undefined>[] = usable.map((value) => ({
    names: entryNames(job.path, value),
    value,
  }));
  const isOneImage =
    candidates.length > 1 && candidates.every(({ names }) => sameNames(names, candidates[0]));
  const [first] = candidates;
  if (isOneImage && first) return pick([{ names: first.names, value: undefined }], job);
  return pick(candidates, job);
}

const sameNames = (names: readonly ImageReference[], other: Candidate<unknown> | undefined) =>
  names.join() === other?.names.join();

function entryNames(path: string, { annotations }: Descriptor): ImageReference[] {
  const name = annotations?.[REF_NAME];
  const full = namesOf([annotations?.[FULL_NAME]]);
  if (full.length > 0 || name === undefined) return full;
  return /[/:]/.test(name) ? namesOf([name]) : nameAfterFile(path, name);
}

async function fetchBlob({ source }: ImportContext, { digest }: Descriptor): Promise<Buffer> {
  const bytes = await readDocument(source, blobName(digest));
  if (!bytes) throw missing(digest);
  return bytes;
}

async function copyBlob(context: ImportContext, descriptor: Descriptor): Promise<void> {
  const { blobs, source, job } = context;
  const { digest, size } = descriptor;
  if ((await blobs.size(digest)) === size) {
    job.onProgress?.({ phase: 'exists', digest, doneBytes: size, totalBytes: size });
    return;
  }
  const bytes = embedded(descriptor);
  if (bytes) return blobs.write(digest, bytes);
  const file = await source.open(blobName(digest));
  if (!file) throw missing(digest);
  try {
    const onBytes = layerProgress(job.onProgress, 'copy', descriptor);
    await storeStream(blobs, descriptor, file.chunks(), onBytes, job.signal);
  } finally {
    await file.close();
  }
}

function blobName(digest: string): string {
  const { algorithm, hex } = splitDigest(digest);
  return `blobs/${algorithm}/${hex}`;
}

function missing(digest: string): VmforkError {
  return new VmforkError('VMF_IMAGE_INVALID', `the layout lacks ${digest}`);
}
