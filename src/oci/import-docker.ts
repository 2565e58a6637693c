// Archives of `docker save`: manifest.json names a config and layer files. The image gets a manifest of ours, the same for
// the same content.

import { createHash } from 'node:crypto';
import { VmforkError } from '../errors.js';
import { sha256 } from './digest.js';
import { type ImportContext, type ImportedImage, namesOf, pick } from './import-context.js';
import { compressionOfBytes, readDocument, type SourceFile } from './import-source.js';
import { OCI_CONFIG, OCI_LAYER, OCI_MANIFEST } from './media-types.js';
import { layerProgress } from './progress.js';
import { resolveConfig } from './resolve.js';
import { check, DOCKER_ARCHIVE, parseJson, parseManifest } from './schemas.js';
import { storeStream } from './transfer.js';

interface Layer {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}

/** Imports an image of an archive. `index` is its manifest.json. */
export async function importDockerArchive(
  context: ImportContext,
  index: Buffer,
): Promise<ImportedImage> {
  const { blobs, lease, source, job } = context;
  const entries = check('manifest.json', DOCKER_ARCHIVE, parseJson('manifest.json', index));
  const candidates = entries.map((value) => ({ names: namesOf(value.RepoTags ?? []), value }));
  const { value: entry, reference } = pick(candidates, job);
  const configBytes = await readDocument(source, entry.Config);
  if (!configBytes) throw missing(entry.Config);
  const config = descriptorOf(OCI_CONFIG, configBytes);
  await lease.protect([config.digest], job.signal);
  await blobs.write(config.digest, configBytes);
  const draft = parseManifest(manifestBytes(config, []));
  const resolved = await resolveConfig(draft, job.platform, async () => configBytes);
  const diffIds = resolved.config.rootfs.diff_ids;
  if (diffIds.length !== entry.Layers.length) {
    const detail = `${entry.Layers.length} layers but ${diffIds.length} diff_ids`;
    throw new VmforkError('VMF_IMAGE_INVALID', detail);
  }
  const layers: Layer[] = [];
  for (const [at, name] of entry.Layers.entries()) {
    layers.push(await importLayer(context, name, diffIds[at] as string));
  }
  const bytes = manifestBytes(config, layers);
  const digest = sha256(bytes);
  await lease.protect([digest], job.signal);
  await blobs.write(digest, bytes);
  const manifest = parseManifest(bytes);
  return { reference, digest, manifest, config: resolved.config, target: digest };
}

/** Layers are plain tar files, whose digest the config knows; some tools compress them all the same. */
async function importLayer(context: ImportContext, name: string, diffId: string): Promise<Layer> {
  const { blobs, lease, job, source } = context;
  const file = await source.open(name);
  if (!file) throw missing(name);
  try {
    const compression = compressionOfBytes(await firstChunk(file));
    const digest = compression === 'none' ? diffId : await digestOf(file);
    const suffix = compression === 'none' ? '' : `+${compression}`;
    const layer = { mediaType: `${OCI_LAYER}${suffix}`, digest, size: file.sizeBytes };
    await lease.protect([digest], job.signal);
    if ((await blobs.size(digest)) === layer.size) {
      const { size: doneBytes, size: totalBytes } = layer;
      job.onProgress?.({ phase: 'exists', digest, doneBytes, totalBytes });
    } else {
      const onBytes = layerProgress(job.onProgress, 'copy', layer);
      await storeStream(blobs, layer, file.chunks(), onBytes, job.signal);
    }
    return layer;
  } finally {
    await file.close();
  }
}

async function firstChunk(file: SourceFile): Promise<Buffer> {
  for await (const chunk of file.chunks()) return chunk;
  return Buffer.of();
}

/** The digest of a file that has to be read for it. */
async function digestOf(file: SourceFile): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of file.chunks()) hash.update(chunk);
  return `sha256:${hash.digest('hex')}`;
}

const descriptorOf = (mediaType: string, bytes: Buffer): Layer => ({
  mediaType,
  digest: sha256(bytes),
  size: bytes.length,
});

function manifestBytes(config: Layer, layers: readonly Layer[]): Buffer {
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers }));
}

function missing(name: string): VmforkError {
  return new VmforkError(
    'VMF_IMAGE_INVALID',
    `the archive lacks ${JSON.stringify(name.slice(0, 200))}`,
  );
}
