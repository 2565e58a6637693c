// A tar file read by name: one pass makes an index of offsets, nothing is ever unpacked.

import type { FileHandle } from 'node:fs/promises';
import { posix } from 'node:path';
import { VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import { storing } from './failure.js';
import { MAX_ARCHIVE_ENTRIES } from './limits.js';
import { PaxRecords } from './rootfs/pax.js';
import {
  type LongNames,
  type MemberType,
  memberType,
  nameLink,
  namePath,
  typeFlag,
} from './rootfs/tar-entry.js';
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
  #long: LongNames = {};

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
    const flag = typeFlag(block);
    const isExtension = 'xgLK'.includes(flag);
    const path = isExtension ? '' : namePath(block, this.#pax, this.#long);
    const type = isExtension ? undefined : memberType(flag, path);
    // Only files have content, whatever else records a size. What is of no known type is passed over with its own.
    const isBare = type !== undefined && type !== 'file';
    const override = isExtension ? undefined : this.#pax.text('size');
    const recorded = override === undefined ? numberField(block, 124, 12) : decimal(override);
    const sizeBytes = isBare ? 0 : recorded;
    const offsetBytes = at + BLOCK_BYTES;
    if (sizeBytes === undefined || sizeBytes < 0 || sizeBytes > this.#size - offsetBytes) {
      throw invalid('it is cut off', at);
    }
    if (isExtension) await this.#extend(flag, { offsetBytes, sizeBytes });
    else this.#add(block, path, type, { offsetBytes, sizeBytes });
    return offsetBytes + Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
  }

  /** A header that belongs to the next one: a pax header or one of GNU's long names. */
  async #extend(type: string, span: FileSpan): Promise<void> {
    if (span.sizeBytes > MAX_HEADER_BYTES) throw invalid('a header is too large', span.offsetBytes);
    const bytes = await readWhole(this.#handle, span);
    const text = () => textField(bytes, 0, bytes.length);
    if (type === 'L') this.#long = { ...this.#long, path: text() };
    else if (type === 'K') this.#long = { ...this.#long, linkPath: text() };
    else if (!this.#pax.add(bytes, type === 'g')) {
      throw invalid('a pax header is malformed', span.offsetBytes);
    }
    if (this.#pax.heldBytes > MAX_HEADER_BYTES) {
      throw invalid('its pax headers are too large', span.offsetBytes);
    }
  }

  #add(block: Buffer, path: string, type: MemberType | undefined, span: FileSpan): void {
    const target = nameLink(block, this.#pax, this.#long);
    this.#pax.nextEntry();
    this.#long = {};
    if (path.length > MAX_NAME || target.length > MAX_NAME) {
      throw invalid('a name is too long', span.offsetBytes);
    }
    const name = cleanName(path);
    if (type === 'file') this.#entries.set(name, { kind: 'file', ...span });
    else if (type === 'hardlink' || type === 'symlink') {
      this.#entries.set(name, { kind: type, target });
    }
    if (this.#entries.size > MAX_ARCHIVE_ENTRIES) {
      throw invalid('it has too many entries', span.offsetBytes);
    }
  }
}

function invalid(what: string, offsetBytes: number): VmforkError {
  return new VmforkError('VMF_IMAGE_INVALID', `archive: ${what} (at byte ${offsetBytes})`);
}
