// The frames of a zstd stream, taken apart into blocks that are not decoded here: what a decoder is about to be asked for is
// known, and refused if it is too much, before it begins. RFC 8878, 3.1.

import { VmforkError } from '../errors.js';

/**
 * Largest window: how far back a block may refer, which a decoder holds in memory. It is what the decoders of zstd itself
 * and of Node accept; the levels up to 19 stay within 8 MiB.
 */
export const MAX_WINDOW_BYTES = 128 * 1024 * 1024;
const MAX_BLOCK_BYTES = 128 * 1024;
/** Blocks in one piece: what comes out of a piece is at most 1 MiB. */
const PIECE_BLOCKS = 8;

const MAGIC = 0xfd2fb528;
const SKIPPABLE = { magic: 0x184d2a50, mask: 0xfffffff0 };
const FIRST_BYTES = 5;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const RLE = 1;
const RESERVED = 3;

/** What a frame's header says. */
interface FrameHeader {
  readonly windowBytes: number;
  readonly hasChecksum: boolean;
}

/** A piece of a frame: its header with the first blocks, or more blocks. */
export interface FramePiece {
  readonly bytes: Buffer;
  readonly begins: boolean;
  readonly ends: boolean;
}

/** Takes a stream apart. Fails with `VMF_IMAGE_INVALID` or `VMF_IMAGE_UNSUPPORTED`. */
export async function* framePieces(source: AsyncIterable<Buffer>): AsyncGenerator<FramePiece> {
  const input = new ByteReader(source);
  while (!(await input.atEnd())) {
    const first = await input.take(FIRST_BYTES);
    const magic = first.readUInt32LE(0);
    if ((magic & SKIPPABLE.mask) >>> 0 === SKIPPABLE.magic) {
      const rest = await input.take(3);
      await input.skip(Buffer.concat([first.subarray(4), rest]).readUInt32LE(0));
    } else if (magic === MAGIC) yield* frame(first, input);
    else throw invalid('it is no zstd stream, or damaged');
  }
}

async function* frame(first: Buffer, input: ByteReader): AsyncGenerator<FramePiece> {
  const missing = headerLength(first) - first.length;
  const header = Buffer.concat([first, await input.take(missing)]);
  const { windowBytes, hasChecksum } = parseFrameHeader(header);
  let parts: Buffer[] = [header];
  let begins = true;
  for (let ends = false, blocks = 1; !ends; blocks++) {
    const head = await input.take(BLOCK_HEADER_BYTES);
    ends = (head.readUInt8(0) & 1) === 1;
    parts.push(head, await input.take(blockLength(head, windowBytes)));
    if (ends && hasChecksum) parts.push(await input.take(CHECKSUM_BYTES));
    if (!ends && blocks % PIECE_BLOCKS > 0) continue;
    yield { bytes: Buffer.concat(parts), begins, ends };
    parts = [];
    begins = false;
  }
}

/** Bytes of a block in the stream. */
function blockLength(head: Buffer, windowBytes: number): number {
  const type = (head.readUInt8(0) >> 1) & 3;
  const size = head.readUIntLE(0, BLOCK_HEADER_BYTES) >> 3;
  if (type === RESERVED) throw invalid('it has a block of an unknown type');
  if (size > Math.min(MAX_BLOCK_BYTES, windowBytes))
    throw invalid('it has a block that is too large');
  return type === RLE ? 1 : size;
}

/** Length of a frame's header, which its first bytes tell. */
function headerLength(first: Buffer): number {
  const { dictionaryBytes, sizeBytes, isSingle } = fields(first.readUInt8(4));
  return FIRST_BYTES + (isSingle ? 0 : 1) + dictionaryBytes + sizeBytes;
}

/** Reads a whole header: the one descriptor byte says which fields follow. */
function parseFrameHeader(header: Buffer): FrameHeader {
  const descriptor = header.readUInt8(4);
  const { dictionaryBytes, sizeBytes, isSingle } = fields(descriptor);
  if ((descriptor & 8) !== 0) throw invalid('a reserved bit is set');
  const dictionaryAt = FIRST_BYTES + (isSingle ? 0 : 1);
  const sizeAt = dictionaryAt + dictionaryBytes;
  if (header.subarray(dictionaryAt, sizeAt).some((byte) => byte !== 0)) {
    throw new VmforkError('VMF_IMAGE_UNSUPPORTED', 'zstd: it needs a dictionary');
  }
  const windowBytes = isSingle
    ? contentSize(header.subarray(sizeAt, sizeAt + sizeBytes))
    : windowSize(header.readUInt8(FIRST_BYTES));
  if (windowBytes > MAX_WINDOW_BYTES) {
    const detail = `zstd: a window of ${windowBytes} bytes, more than ${MAX_WINDOW_BYTES}`;
    throw new VmforkError('VMF_IMAGE_UNSUPPORTED', detail);
  }
  return { windowBytes, hasChecksum: (descriptor & 4) !== 0 };
}

function fields(descriptor: number) {
  const isSingle = (descriptor & 0x20) !== 0;
  const sizeBytes = [isSingle ? 1 : 0, 2, 4, 8][descriptor >> 6] as number;
  return { isSingle, sizeBytes, dictionaryBytes: [0, 1, 2, 4][descriptor & 3] as number };
}

function windowSize(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function contentSize(field: Buffer): number {
  if (field.length === 8) return Number(field.readBigUInt64LE());
  return field.readUIntLE(0, field.length) + (field.length === 2 ? 256 : 0);
}

const invalid = (what: string) => new VmforkError('VMF_IMAGE_INVALID', `zstd: ${what}`);

/** A stream read by so many bytes at a time. */
class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #chunk: Buffer = Buffer.of();
  #at = 0;

  constructor(source: AsyncIterable<Buffer>) {
    this.#chunks = source[Symbol.asyncIterator]();
  }

  async atEnd(): Promise<boolean> {
    while (this.#at === this.#chunk.length) {
      const { done, value } = await this.#chunks.next();
      if (done) return true;
      this.#chunk = value;
      this.#at = 0;
    }
    return false;
  }

  async take(bytes: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let missing = bytes; missing > 0; ) {
      const part = await this.#part(missing);
      missing -= part.length;
      parts.push(part);
    }
    return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
  }

  async skip(bytes: number): Promise<void> {
    for (let missing = bytes; missing > 0; ) missing -= (await this.#part(missing)).length;
  }

  async #part(most: number): Promise<Buffer> {
    if (await this.atEnd()) throw invalid('it is cut off');
    const part = this.#chunk.subarray(this.#at, this.#at + most);
    this.#at += part.length;
    return part;
  }
}
