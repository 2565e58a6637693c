// `vmfork pull | import | images | rmi | inspect`: the image store from the command line.

import { removeWarmedExcept } from '../container/warmed.js';
import type { StoredImage } from '../oci/image.js';
import { ImageStore } from '../oci/store.js';
import { EXIT } from './exit-codes.js';
import { formatBytes, formatTable, note, printJson, printLines, shortDigest } from './output.js';
import { withProgress } from './progress.js';

interface JsonOption {
  json?: boolean;
}

export interface PullCliOptions extends JsonOption {
  platform?: string;
  insecure?: boolean;
}

export interface ImportCliOptions extends JsonOption {
  reference?: string;
  platform?: string;
}

/** Pulls an image into the store. */
export async function pull(
  reference: string,
  { json, platform, insecure }: PullCliOptions,
): Promise<number> {
  const store = await ImageStore.open();
  const image = await withProgress(json, (onProgress) =>
    store.pull(reference, { platform, insecure, onProgress }),
  );
  return announce(image, json);
}

/** Imports an OCI layout or an archive of `docker save` into the store. */
export async function importImage(
  path: string,
  { json, reference, platform }: ImportCliOptions,
): Promise<number> {
  const store = await ImageStore.open();
  const image = await withProgress(json, (onProgress) =>
    store.importFrom(path, { reference, platform, onProgress }),
  );
  return announce(image, json);
}

/** Lists the store. */
export async function images({ json }: JsonOption): Promise<number> {
  const list = await (await ImageStore.open()).list();
  if (json) printJson(list.map(summary));
  else if (list.length === 0) note('no images yet; `vmfork pull IMAGE` gets one');
  else {
    const rows = list.map((image) => [
      image.reference.familiar(),
      shortDigest(image.digest),
      image.config.created?.slice(0, 10) ?? '',
      formatBytes(image.sizeBytes),
    ]);
    printLines(formatTable([['IMAGE', 'DIGEST', 'CREATED', 'SIZE'], ...rows], [3]));
  }
  return EXIT.ok;
}

/** Forgets images and frees what nothing refers to any more: layers, root filesystems, warmed snapshots. */
export async function rmi(references: readonly string[], { json }: JsonOption): Promise<number> {
  const store = await ImageStore.open();
  for (const reference of references) {
    await store.remove(reference);
    if (!json) note(`forgot ${reference}`);
  }
  const { freedBytes, ...removed } = await store.gc();
  const left = new Set((await store.list()).map(({ digest }) => digest));
  const allFreedBytes = freedBytes + (await removeWarmedExcept(left));
  if (json) printJson({ removed: references, ...removed, freedBytes: allFreedBytes });
  else note(`freed ${formatBytes(allFreedBytes)}`);
  return EXIT.ok;
}

/** Shows what an image is and how it says it is run. */
export async function inspect(reference: string): Promise<number> {
  const image = await (await ImageStore.open()).inspect(reference);
  printJson({ ...summary(image), layers: image.layers, config: image.config });
  return EXIT.ok;
}

function announce(image: StoredImage, json: boolean | undefined): number {
  if (json) printJson(summary(image));
  else printLines([`${image.reference.familiar()}  ${image.digest}`]);
  return EXIT.ok;
}

function summary(image: StoredImage): object {
  return {
    reference: image.reference.toString(),
    digest: image.digest,
    created: image.config.created,
    sizeBytes: image.sizeBytes,
  };
}
