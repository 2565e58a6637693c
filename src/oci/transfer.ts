// What pulling and importing share: the layers of a resolved image go into the store, then its name.

import { VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import type { BlobStore } from './blobs.js';
import { DigestCheck } from './digest.js';
import { storing } from './failure.js';
import type { Descriptor, Manifest } from './schemas.js';

/** All blobs of an image besides its manifest. */
export function blobsOf(manifest: Manifest): Descriptor[] {
  return [manifest.config, ...manifest.layers];
}

/** The descriptors without those whose digest came before. One digest with two sizes is a lie. */
export function uniqueBlobs(descriptors: readonly Descriptor[]): Descriptor[] {
  const unique = new Map<string, Descriptor>();
  for (const descriptor of descriptors) {
    const { digest, size } = descriptor;
    const known = unique.get(digest);
    if (known && known.size !== size) {
      throw new VmforkError(
        'VMF_IMAGE_INVALID',
        `${digest} has two sizes, ${known.size} and ${size}`,
      );
    }
    if (!known) unique.set(digest, descriptor);
  }
  return [...unique.values()];
}

/** Writes content into the store as it comes, and publishes it when it is what the descriptor says. */
export async function storeStream(
  blobs: BlobStore,
  { digest, size }: { digest: string; size: number },
  content: AsyncIterable<Uint8Array>,
  onBytes: (doneBytes: number) => void = () => {},
  signal?: AbortSignal,
): Promise<void> {
  const pending = await blobs.begin(digest);
  try {
    const { handle, path } = pending;
    await storing(`truncate ${path}`, () => handle.truncate(0));
    const check = new DigestCheck(digest);
    for await (const chunk of content) {
      throwIfAborted('import', signal);
      check.update(chunk);
      if (check.sizeBytes > size) break;
      await storing(`write ${path}`, () => handle.appendFile(chunk));
      onBytes(check.sizeBytes);
    }
    if (check.sizeBytes !== size) {
      throw new VmforkError(
        'VMF_IMAGE_DIGEST',
        `${digest} does not have the ${size} bytes it should`,
      );
    }
    check.finish('content');
    await blobs.commit(pending);
  } catch (error) {
    await blobs.discard(pending);
    throw error;
  }
}
