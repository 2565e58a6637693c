// A tar file read by name: one pass makes an index of offsets, nothing is ever unpacked.

import type { FileHandle } from 'node:fs/promises';
import { posix } from 'node:path';
import { VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import { storing } from './failure.js';
import { MAX_ARCHIVE_ENTRIES } from './limits.js';
import { PaxRecords } from './rootfs/pax.js';
import {
  BLOCK_BYTES,
  checksumMatches,
  decimal,
  numberField,
  textField,
} from './rootfs/tar-numbers.js';

/** Largest extended header or long name, and most of PAX headers that are in force at once. */
const MAX_HEADER_BYTES = 1024 * 1024;
const MAX_NAME = 4096;
const MAX_LINKS = 8;
const CHUNK_BYTES = 1024 * 1024;

/** A regular file in an archive or folder. */
export interface FileSpan {
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

type Entry =
  | ({ readonly kind: 'file' } & FileSpan)
  | { readonly kind: 'symlink' | 'hardlink'; readonly target: string };

/** Reads part of an open file as it is asked for. */
export async function* readSpan(
  handle: FileHandle,
  { offsetBytes, sizeBytes }: FileSpan,
): AsyncGenerator<Buffer> {
  for (let done = 0; done < sizeBytes; ) {
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, sizeBytes - done));
    const { bytesRead } = await storing('read archive', () =>
      handle.read(buffer, 0, buffer.length, offsetBytes + done),
    );
    if (bytesRead === 0) throw new VmforkError('VMF_IMAGE_INVALID', 'the file ends too early');
    done += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** A part of an open file that is small enough to hold. */
export async function readWhole(handle: FileHandle, span: FileSpan): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of readSpan(handle, span)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

export class TarArchive {
  readonly handle: FileHandle;
  readonly #entries: ReadonlyMap<string, Entry>;

  private constructor(handle: FileHandle, entries: ReadonlyMap<string, Entry>) {
    this.handle = handle;
    this.#entries = entries;
  }

  /** Makes the index. The handle stays the caller's. Throws `VMF_IMAGE_INVALID` when it is no tar file. */
  static async read(handle: FileHandle, signal?: AbortSignal): Promise<TarArchive> {
    const { size } = await storing('stat archive', () => handle.stat());
    return new TarArchive(handle, await new Indexer(handle, size, signal).run());
  }

  /** Finds a regular file, through links within the archive. */
  find(name: string): FileSpan | undefined {
    let at = cleanName(name);
    for (let links = 0; links <= MAX_LINKS; links++) {
      const entry = this.#entries.get(at);
      if (!entry) return undefined;
      if (entry.kind === 'file') return entry;
      // A symbolic link starts at its own folder, a hard link at the archive's root.
      const base = entry.kind === 'symlink' ? posix.dirname(at) : '';
      at = cleanName(posix.join(base, entry.target));
    }
    return undefined;
  }
}

/** One way to write a name, so that `./a` finds `a`. Names are only looked up, so `..` leads nowhere. */
const cleanName = (name: string) => posix.normalize(name).replace(/^\/+/, '');

class Indexer {
  readonly #handle: FileHandle;
  readonly #size: number;
  readonly #signal: AbortSignal | undefined;
  readonly #entries = new Map<string, Entry>();
  readonly #pax = new PaxRecords();
  #longName: string | undefined;
  #longLink: string | undefined;

  constructor(handle: FileHandle, size: number, signal: AbortSignal | undefined) {
    this.#handle = handle;
    this.#size = size;
    this.#signal = signal;
  }

  async run(): Promise<ReadonlyMap<string, Entry>> {
    let headers = 0;
    for (let at = 0; at + BLOCK_BYTES <= this.#size; ) {
      throwIfAborted('import', this.#signal);
      if (++headers > 3 * MAX_ARCHIVE_ENTRIES) throw invalid('it has too many entries', at);
      const block = await readWhole(this.#handle, { offsetBytes: at, sizeBytes: BLOCK_BYTES });
      if (block.every((byte) => byte === 0)) break;
      at = await this.#header(block, at);
    }
    if (this.#entries.size === 0) throw invalid('it holds no files', 0);
    return this.#entries;
  }

  /** Takes one header block. Returns where the next one is. */
  async #header(block: Buffer, at: number): Promise<number> {
    if (!checksumMatches(block)) throw invalid('it is no tar file, or damaged', at);
    const type = block.toString('latin1', 156, 157);
    const isExtension = 'xgLK'.includes(type);
    const recorded = numberField(block, 124, 12);
    const override = isExtension ? undefined : this.#pax.text('size');
    const sizeBytes = override === undefined ? recorded : decimal(override);
    const offsetBytes = at + BLOCK_BYTES;
    if (sizeBytes === undefined || sizeBytes < 0 || sizeBytes > this.#size - offsetBytes) {
      throw invalid('it is cut off', at);
    }
    if (isExtension) await this.#extend(type, { offsetBytes, sizeBytes });
    else this.#add(block, type, { offsetBytes, sizeBytes });
    // Links may record the size of what they link to, but have no content.
    const stored = type === '1' || type === '2' ? 0 : sizeBytes;
    return offsetBytes + Math.ceil(stored / BLOCK_BYTES) * BLOCK_BYTES;
  }

  /** A header that belongs to the next one: a pax header or one of GNU's long names. */
  async #extend(type: string, span: FileSpan): Promise<void> {
    if (span.sizeBytes > MAX_HEADER_BYTES) throw invalid('a header is too large', span.offsetBytes);
    const bytes = await readWhole(this.#handle, span);
    if (type === 'L') this.#longName = textField(bytes, 0, bytes.length);
    else if (type === 'K') this.#longLink = textField(bytes, 0, bytes.length);
    else if (!this.#pax.add(bytes, type === 'g')) {
      throw invalid('a pax header is malformed', span.offsetBytes);
    }
    if (this.#pax.heldBytes > MAX_HEADER_BYTES) {
      throw invalid('its pax headers are too large', span.offsetBytes);
    }
  }

  #add(block: Buffer, type: string, span: FileSpan): void {
    const name = cleanName(this.#pax.text('path') ?? this.#longName ?? ustarName(block));
    const target = this.#pax.text('linkpath') ?? this.#longLink ?? textField(block, 157, 100);
    this.#pax.nextEntry();
    this.#longName = undefined;
    this.#longLink = undefined;
    if (name.length > MAX_NAME || target.length > MAX_NAME) {
      throw invalid('a name is too long', span.offsetBytes);
    }
    if (type === '0' || type === '\0' || type === '7')
      this.#entries.set(name, { kind: 'file', ...span });
    else if (type === '1') this.#entries.set(name, { kind: 'hardlink', target });
    else if (type === '2') this.#entries.set(name, { kind: 'symlink', target });
    if (this.#entries.size > MAX_ARCHIVE_ENTRIES) {
      throw invalid('it has too many entries', span.offsetBytes);
    }
  }
}

/** POSIX splits long names in two; GNU, whose magic ends in a space, has other fields in place of the prefix. */
function ustarName(block: Buffer): string {
  const prefix = block.toString('latin1', 257, 263) === 'ustar\0' ? textField(block, 345, 155) : '';
  const name = textField(block, 0, 100);
  return prefix ? `${prefix}/${name}` : name;
}

function invalid(what: string, offsetBytes: number): VmforkError {
  return new VmforkError('VMF_IMAGE_INVALID', `archive: ${what} (at byte ${offsetBytes})`);
}
