// Reads one layer: its entries into memory, the content of its files, as far as wanted, into the image.

import type { Breath } from './breath.js';
import { chunkMapBytes, type FileWriter, fileWriter } from './file-data.js';
import type { ImageFile } from './image-file.js';
import { type LayerEntry, layerEntry } from './layer-entry.js';
import { chunksOf, type LayerSource } from './layer-source.js';
import { beyondLimit, invalidLayer, type LayerPlace, type RootfsLimits } from './limits.js';
import type { TarMember } from './tar-entry.js';
import { TarReader, type TarSink } from './tar-reader.js';

/** What all layers together may still use. */
export interface Budget {
  limits: RootfsLimits;
  layerBytes: number;
  entries: number;
  metadataBytes: number;
}

/** What a pass over a layer does with its files. */
export interface LayerPass {
  /** Whether this file's content goes into the image; asked once for every entry, in order. */
  wants(entry: LayerEntry, index: number): boolean;
  /** The content of a wanted file lies in the image. */
  stored(entry: LayerEntry, index: number): void;
}

/** Pieces in which a layer is read: small enough that no stretch of work is long. */
const PIECE_BYTES = 128 * 1024;
/** Rough memory of one entry besides its texts. */
const ENTRY_BYTES = 64;

/** What feeding a layer needs besides the scanner. */
export interface Feeding {
  breath: Breath;
  signal: AbortSignal | undefined;
  onBytes?: (bytes: number) => void;
}

/** Feeds a decompressed layer to the scanner. Reads it to its end, so that its source can verify all of it. */
export async function scanLayer(
  source: LayerSource,
  scanner: LayerScanner,
  feeding: Feeding,
): Promise<void> {
  const { budget } = scanner;
  const reader = new TarReader(scanner.place.layer, scanner, budget.limits);
  for await (const chunk of chunksOf(source, scanner.place.layer, feeding.signal)) {
    budget.layerBytes -= chunk.length;
    if (budget.layerBytes < 0) {
      throw beyondLimit(scanner.place, 'layerBytes', budget.limits.layerBytes);
    }
    for (let start = 0; start < chunk.length; start += PIECE_BYTES) {
      await feedPiece(reader, chunk.subarray(start, start + PIECE_BYTES), scanner.image, feeding);
    }
    feeding.onBytes?.(chunk.length);
  }
  feeding.breath.check();
  reader.finish();
}

async function feedPiece(reader: TarReader, piece: Buffer, image: ImageFile, { breath }: Feeding) {
  let at = 0;
  while (at < piece.length) {
    at = reader.feed(piece, at);
    if (image.congested) await image.settle();
    if (breath.due) await breath.take();
  }
}

export class LayerScanner implements TarSink {
  readonly image: ImageFile;
  readonly budget: Budget;
  place: LayerPlace;
  readonly #pass: LayerPass;
  #entry: LayerEntry | undefined;
  #writer: FileWriter | undefined;
  #index = -1;

  constructor(layer: number, image: ImageFile, budget: Budget, pass: LayerPass) {
    this.place = { layer, offset: 0, name: '' };
    this.image = image;
    this.budget = budget;
    this.#pass = pass;
  }

  get congested(): boolean {
    return this.image.congested;
  }

  member(member: TarMember): void {
    this.place = member.place;
    this.#entry = layerEntry(member, this.budget.limits);
    if (!this.#entry) return;
    this.#index++;
    this.#charge(this.#entry);
    const isWanted = this.#pass.wants(this.#entry, this.#index);
    if (this.#entry.type !== 'file' || !isWanted) return;
    this.#checkImage(member.storedBytes);
    this.#writer = fileWriter(this.image, member.sizeBytes, member.sparse);
  }

  data(bytes: Buffer): number {
    if (!this.#writer) return bytes.length;
    const used = this.#writer.write(bytes);
    this.#checkImage(0);
    return used;
  }

  end(): void {
    if (!this.#writer || !this.#entry) return;
    this.#entry.data = this.#writer.end();
    this.#checkImage(0);
    this.#pass.stored(this.#entry, this.#index);
    this.#writer = undefined;
  }

  #checkImage(more: number): void {
    const { imageBytes } = this.budget.limits;
    if (this.image.position + more > imageBytes) {
      throw beyondLimit(this.place, 'imageBytes', imageBytes);
    }
  }

  /** Counts what an entry takes of the memory that layers may use. */
  #charge(entry: LayerEntry): void {
    const { budget } = this;
    budget.entries--;
    if (budget.entries < 0) throw beyondLimit(entry.place, 'entries', budget.limits.entries);
    let bytes = ENTRY_BYTES + entry.place.name.length + entry.path.length + entry.target.length;
    for (const { name, value } of entry.xattrs) bytes += name.length + value.length;
    if (entry.sparse) bytes += 8 * entry.sparse.length + chunkMapBytes(entry.sizeBytes);
    budget.metadataBytes -= bytes;
    if (budget.metadataBytes < 0) {
      throw beyondLimit(entry.place, 'metadataBytes', budget.limits.metadataBytes);
    }
  }
}

/** The entry of a second pass is the one of the first; a source that changes in between is refused. */
export function sameEntry(first: LayerEntry, second: LayerEntry): void {
  const isSame =
    first.place.offset === second.place.offset &&
    first.type === second.type &&
    first.path === second.path &&
    first.sizeBytes === second.sizeBytes;
  if (!isSame) throw invalidLayer(second.place, 'the layer is not the one of the first pass');
}
