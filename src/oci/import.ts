// Importing: an OCI layout or a `docker save` archive becomes an image in the store.
// Layout: image-layout.md of the OCI image specification. docker save: manifest.json of github.com/moby/moby, image/tarexport.

import { VmforkError } from '../errors.js';
import type { BlobStore } from './blobs.js';
import type { ImportContext, ImportedImage, ImportJob } from './import-context.js';
import { importDockerArchive } from './import-docker.js';
import { importLayout } from './import-layout.js';
import { openSource, readDocument } from './import-source.js';
import { Lease } from './lease.js';

/** Brings an image into the store. `publish` gives it its name while its blobs are still protected. */
export async function importImage(
  blobs: BlobStore,
  job: ImportJob,
  publish: (image: ImportedImage) => Promise<void>,
): Promise<ImportedImage> {
  const source = await openSource(blobs, job.path, job.signal);
  const lease = new Lease(blobs);
  try {
    job.onProgress?.({ phase: 'resolve', doneBytes: 0, totalBytes: 0 });
    const context = { source, blobs, lease, job };
    const image = await importFormat(context);
    await publish(image);
    const totalBytes = image.manifest.layers.reduce((sum, { size }) => sum + size, 0);
    job.onProgress?.({ phase: 'done', doneBytes: totalBytes, totalBytes });
    return image;
  } finally {
    await lease.release();
    await source.close();
  }
}

/** Newer versions of docker save write both formats into one file; the layout says more. */
async function importFormat(context: ImportContext): Promise<ImportedImage> {
  const { source, job } = context;
  const index = await readDocument(source, 'index.json');
  if (index && (await readDocument(source, 'oci-layout'))) return importLayout(context, index);
  const manifest = await readDocument(source, 'manifest.json');
  if (manifest) return importDockerArchive(context, manifest);
  const detail = `${job.path} is neither an OCI layout nor an archive of docker save`;
  throw new VmforkError('VMF_IMAGE_INVALID', detail);
}
