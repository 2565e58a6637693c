// The maps of sparse files in tar: GNU tar's formats, old (type S), PAX 0.0, 0.1 and 1.0.
// GNU tar manual, "Storing Sparse Files".

import { decimal, numberField } from './tar-numbers.js';

/** Where data lies in a sparse file, ascending; the rest reads as zeros. Offset and length by turns, bytes. */
export type SparseMap = number[];

const OLD_ENTRY_BYTES = 24;
const OLD_NUMBER_BYTES = 12;
const OLD_HEADER_ENTRIES = { offset: 386, count: 4, more: 482 };
const OLD_EXTENSION_ENTRIES = { offset: 0, count: 21, more: 504 };

/** Reads a block of an old GNU map into `map`. Whether an extension block follows; undefined: malformed. */
export function readOldSparseBlock(
  block: Buffer,
  extension: boolean,
  map: SparseMap,
): boolean | undefined {
  const { offset, count, more } = extension ? OLD_EXTENSION_ENTRIES : OLD_HEADER_ENTRIES;
  for (let index = 0; index < count; index++) {
    const at = offset + index * OLD_ENTRY_BYTES;
    if (block[at] === 0) break;
    const start = numberField(block, at, OLD_NUMBER_BYTES);
    const length = numberField(block, at + OLD_NUMBER_BYTES, OLD_NUMBER_BYTES);
    if (start === undefined || length === undefined) return undefined;
    map.push(start, length);
  }
  return block[more] !== 0;
}

/** The map of the PAX formats 0.0 (the values of its repeated keys) and 0.1 (one comma-separated value). */
export function parseSparseList(numbers: readonly string[]): SparseMap | undefined {
  const map: SparseMap = [];
  for (const text of numbers) {
    const value = decimal(text);
    if (value === undefined) return undefined;
    map.push(value);
  }
  return map;
}

/** The map of PAX format 1.0, which lies before the data: lines with the count, then offsets and lengths. */
export class SparsePrefix {
  readonly map: SparseMap = [];
  #line = '';
  #missing: number | undefined;

  /** Takes one block. Whether the map is complete; undefined: malformed. */
  add(block: Buffer): boolean | undefined {
    const lines = (this.#line + block.toString('latin1')).split('\n');
    this.#line = lines.pop() ?? '';
    for (const line of lines) {
      const value = decimal(line);
      if (value === undefined) return undefined;
      if (this.#missing === undefined) this.#missing = value * 2;
      else {
        this.map.push(value);
        this.#missing--;
      }
      if (this.#missing === 0) return true; // What follows in the block is padding.
    }
    return this.#line.length > MAX_DIGITS ? undefined : false;
  }
}

const MAX_DIGITS = 16;

/** Whether a map is ascending, without overlaps, inside the file, and describes exactly the stored bytes. */
export function sparseMapFits(map: SparseMap, sizeBytes: number, storedBytes: number): boolean {
  if (map.length % 2 !== 0) return false;
  let end = 0;
  let total = 0;
  for (let index = 0; index < map.length; index += 2) {
    const [offset, length] = [map[index] as number, map[index + 1] as number];
    if (offset < end || length < 0 || offset > sizeBytes || length > sizeBytes - offset)
      return false;
    end = offset + length;
    total += length;
  }
  return total === storedBytes;
}
