// `vmfork snapshot create | ls | rm`: images attached and warm on disk, for `vmfork run` to fork.

import { createWarmed, listWarmed, removeWarmed, type WarmedEntry } from '../container/warmed.js';
import { findImage } from '../oci/prepare.js';
import { parseReference } from '../oci/reference.js';
import { ImageStore } from '../oci/store.js';
import { ensureGuest, withEngine } from './engine.js';
import { EXIT } from './exit-codes.js';
import { formatBytes, formatTable, note, printJson, printLines } from './output.js';
import { withProgress } from './progress.js';

interface JsonOption {
  json?: boolean;
}

export interface CreateCliOptions extends JsonOption {
  /** MiB. */
  memory?: number;
  cpus?: number;
}

/** Warms an image. */
export async function createSnapshot(
  reference: string,
  { json, memory, cpus }: CreateCliOptions,
): Promise<number> {
  const entry = await withEngine(async (engine) => {
    await ensureGuest();
    const store = await ImageStore.open();
    const image = await withProgress(json, (onProgress) =>
      findImage(store, reference, { onProgress }),
    );
    if (!json) note('warming the image, once');
    return createWarmed(engine, image, { memoryMiB: memory, vcpus: cpus });
  });
  if (json) printJson(entry);
  else printLines([`${entry.id}  ${formatBytes(entry.storedBytes)}`]);
  return EXIT.ok;
}

/** Lists what is warm. */
export async function listSnapshots({ json }: JsonOption): Promise<number> {
  const entries = await listWarmed();
  if (json) printJson(entries);
  else if (entries.length === 0) note('none yet; `vmfork snapshot create IMAGE` makes one');
  else {
    const head = ['ID', 'IMAGE', 'MEMORY', 'CPUS', 'MADE BY', 'CREATED', 'SIZE'];
    printLines(formatTable([head, ...entries.map(row)], [2, 3, 6]));
  }
  return EXIT.ok;
}

/** Removes some. */
export async function removeSnapshots(
  ids: readonly string[],
  { json }: JsonOption,
): Promise<number> {
  for (const id of ids) {
    await removeWarmed(id);
    if (!json) note(`removed ${id}`);
  }
  if (json) printJson({ removed: ids });
  return EXIT.ok;
}

function row(entry: WarmedEntry): string[] {
  const { id, memoryMiB, vcpus, automatic, createdAt } = entry;
  const name = parseReference(entry.reference).familiar();
  const size = formatBytes(entry.storedBytes);
  return [id, name, `${memoryMiB} MiB`, `${vcpus}`, automatic ? 'run' : 'create', createdAt, size];
}
