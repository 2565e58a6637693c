// Contents of regular files on their way into the image: whole files in consecutive blocks, sparse files in chunks of which
// the empty ones are not stored.

import { IMAGE_BLOCK_BYTES, type ImageFile } from './image-file.js';
import type { SparseMap } from './sparse.js';

/** Where a file's content lies. */
export interface FileData {
  /** First block; 0 for an empty or a chunked file. */
  block: number;
  /** Sparse files: the block of every chunk, `HOLE` for one that is all zeros. */
  chunks?: Uint32Array;
  /** Sparse files: chunk size, as blocks, logarithm to base 2. */
  chunkBits: number;
}

/** EROFS_NULL_ADDR, fs/erofs/erofs_fs.h. */
export const HOLE = 0xffffffff;

const MOST_CHUNKS = 1 << 16;

/** The smallest chunk with which the map of a file stays small: 4 KiB up to 256 MiB. */
export function chunkBitsFor(sizeBytes: number): number {
  let bits = 0;
  while (sizeBytes / (IMAGE_BLOCK_BYTES * 2 ** bits) > MOST_CHUNKS) bits++;
  return bits;
}

/** Bytes of the chunk map of a sparse file. */
export const chunkMapBytes = (sizeBytes: number): number =>
  4 * Math.ceil(sizeBytes / (IMAGE_BLOCK_BYTES * 2 ** chunkBitsFor(sizeBytes)));

/** Takes the stored bytes of one file, in order. */
export interface FileWriter {
  /** Returns how many bytes were taken, at least one. */
  write(bytes: Buffer): number;
  end(): FileData;
}

/** A writer for a file of this size; `sparse` says where the stored bytes belong. */
export function fileWriter(image: ImageFile, sizeBytes: number, sparse?: SparseMap): FileWriter {
  if (sizeBytes === 0) return new FlatWriter(image);
  return sparse ? new SparseWriter(image, sizeBytes, sparse) : new FlatWriter(image);
}

class FlatWriter implements FileWriter {
  readonly #image: ImageFile;
  readonly #start: number;

  constructor(image: ImageFile) {
    this.#image = image;
    image.align();
    this.#start = image.position;
  }

  write(bytes: Buffer): number {
    this.#image.append(bytes);
    return bytes.length;
  }

  end(): FileData {
    const isEmpty = this.#image.position === this.#start;
    this.#image.align();
    return { block: isEmpty ? 0 : this.#start / IMAGE_BLOCK_BYTES, chunkBits: 0 };
  }
}

class SparseWriter implements FileWriter {
  readonly #image: ImageFile;
  readonly #sizeBytes: number;
  readonly #extents: SparseMap;
  readonly #chunkBits: number;
  readonly #chunkBytes: number;
  readonly #chunks: Uint32Array;
  #extent = 0;
  #extentDone = 0;
  // The chunk that is open: its index, and how much of it is in the image.
  #chunk = -1;
  #chunkFilled = 0;

  constructor(image: ImageFile, sizeBytes: number, extents: SparseMap) {
    this.#image = image;
    this.#sizeBytes = sizeBytes;
    this.#extents = extents;
    this.#chunkBits = chunkBitsFor(sizeBytes);
    this.#chunkBytes = IMAGE_BLOCK_BYTES * 2 ** this.#chunkBits;
    this.#chunks = new Uint32Array(Math.ceil(sizeBytes / this.#chunkBytes)).fill(HOLE);
    image.align();
  }

  write(bytes: Buffer): number {
    while (this.#extentLength === this.#extentDone) {
      this.#extent += 2;
      this.#extentDone = 0;
    }
    const offset = (this.#extents[this.#extent] as number) + this.#extentDone;
    const inChunk = offset % this.#chunkBytes;
    this.#open(Math.floor(offset / this.#chunkBytes));
    this.#image.appendZeros(inChunk - this.#chunkFilled);
    const left = Math.min(this.#extentLength - this.#extentDone, this.#chunkBytes - inChunk);
    const used = Math.min(bytes.length, left);
    this.#image.append(bytes.subarray(0, used));
    this.#chunkFilled = inChunk + used;
    this.#extentDone += used;
    return used;
  }

  end(): FileData {
    this.#close();
    return { block: 0, chunks: this.#chunks, chunkBits: this.#chunkBits };
  }

  get #extentLength(): number {
    return this.#extents[this.#extent + 1] as number;
  }

  #open(chunk: number): void {
    if (chunk === this.#chunk) return;
    this.#close();
    this.#chunk = chunk;
    this.#chunks[chunk] = this.#image.position / IMAGE_BLOCK_BYTES;
  }

  /** Fills the open chunk: to its end, or, as the file's last, to the end of the file's last block. */
  #close(): void {
    if (this.#chunk < 0) return;
    const start = this.#chunk * this.#chunkBytes;
    const length = Math.min(this.#chunkBytes, this.#sizeBytes - start);
    this.#image.appendZeros(length - this.#chunkFilled);
    this.#image.align();
    this.#chunk = -1;
    this.#chunkFilled = 0;
  }
}
