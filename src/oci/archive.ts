// A tar file read by name: one pass makes an index of offsets, nothing is ever unpacked.

import type { FileHandle } from 'node:fs/promises';
import { ERROR_CODES, VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import { storing } from './failure.js';
import { MAX_ARCHIVE_ENTRIES, MAX_ARCHIVE_NAME_BYTES } from './limits.js';
import { cleanPath, linkTarget } from './rootfs/layer-entry.js';
import {
  invalidLayer,
  type LayerPlace,
  MAX_PATH_BYTES,
  NO_LAYER,
  resolveLimits,
} from './rootfs/limits.js';
import type { TarMember } from './rootfs/tar-entry.js';
import { BLOCK_BYTES } from './rootfs/tar-numbers.js';
import { TarReader, type TarSink } from './rootfs/tar-reader.js';

const LIMITS = resolveLimits();
const START: LayerPlace = { layer: NO_LAYER, offset: 0, name: '' };
const MAX_LINKS = 8;
const CHUNK_BYTES = 1024 * 1024;
/** What is read at once to find headers in. */
const PIECE_BYTES = 64 * 1024;

/** A regular file in an archive or folder. */
export interface FileSpan {
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

type Entry =
  | ({ readonly kind: 'file' } & FileSpan)
  | { readonly kind: 'symlink'; readonly target: string }
  | { readonly kind: 'directory' };

const DIRECTORY: Entry = { kind: 'directory' };

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

type Index = ReadonlyMap<string, Entry>;

export class TarArchive {
  readonly handle: FileHandle;
  readonly #index: Index;

  private constructor(handle: FileHandle, index: Index) {
    this.handle = handle;
    this.#index = index;
  }

  /** Makes the index. The handle stays the caller's. Throws `VMF_IMAGE_INVALID` when it is no tar file. */
  static async read(handle: FileHandle, signal?: AbortSignal): Promise<TarArchive> {
    const indexer = new Indexer();
    try {
      await readHeaders(handle, new TarReader(NO_LAYER, indexer, LIMITS), signal);
      if (indexer.fileCount === 0) throw invalidLayer(START, 'it holds no files');
    } catch (error) {
      throw asArchiveError(error);
    }
    return new TarArchive(handle, indexer.index);
  }

  /** Finds a regular file by its name, a byte string, through links within the archive. */
  find(name: string): FileSpan | undefined {
    if (name.length > MAX_PATH_BYTES) return undefined;
    let parts = name.split('/');
    let at = '';
    for (let links = 0; ; ) {
      const part = parts.shift();
      if (part === undefined) return undefined;
      if (part === '' || part === '.') continue;
      if (part === '..') {
        if (at === '') return undefined;
        at = parentOf(at);
        continue;
      }
      const path = at === '' ? part : `${at}/${part}`;
      const entry = this.#index.get(path);
      if (entry?.kind === 'file') return parts.length === 0 ? entry : undefined;
      if (entry?.kind === 'directory') at = path;
      else if (!entry || ++links > MAX_LINKS) return undefined;
      else {
        if (entry.target.startsWith('/')) at = '';
        parts = [...entry.target.split('/'), ...parts];
      }
    }
  }
}

/** Feeds the reader all but the content of files, which is passed over. */
async function readHeaders(
  handle: FileHandle,
  reader: TarReader,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { size } = await storing('stat archive', () => handle.stat());
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  for (let at = 0; at < size && !reader.isOver; at += reader.skip(size - at)) {
    throwIfAborted('import', signal);
    const length = Math.min(buffer.length, size - at);
    const { bytesRead } = await storing('read archive', () => handle.read(buffer, 0, length, at));
    if (bytesRead === 0) break;
    at += reader.feed(buffer.subarray(0, bytesRead), 0);
  }
  reader.finish();
}

/** Whom the reader of layers tells about the archive's members: nobody else decides what bytes of a tar file mean. */
class Indexer implements TarSink {
  readonly congested = false;
  readonly index = new Map<string, Entry>();
  fileCount = 0;
  #nameBytes = 0;

  member(member: TarMember): void {
    const { place, type } = member;
    const name = cleanPath(member.path, place, LIMITS);
    const target = linkTarget(member, LIMITS);
    if (name === '') {
      if (type === 'directory') return;
      throw invalidLayer(place, 'it has no name');
    }
    for (let at = parentOf(name); at !== ''; at = parentOf(at)) this.#put(at, DIRECTORY, place);
    if (type === 'directory') this.#put(name, DIRECTORY, place);
    else if (type === 'symlink') this.#put(name, { kind: type, target }, place);
    else if (type === 'hardlink') this.#put(name, this.#linked(target, place), place);
    else if (type === 'file') this.#put(name, spanOf(member), place);
    else throw invalidLayer(place, 'it is neither file nor folder nor link');
  }

  data(bytes: Buffer): number {
    return bytes.length;
  }

  end(): void {}

  /** What an earlier member is, to which a hard link refers. */
  #linked(target: string, place: LayerPlace): Entry {
    const entry = this.index.get(target);
    if (entry && entry.kind !== 'directory') return entry;
    throw invalidLayer(place, 'a hard link to no file');
  }

  /** A later member of a name replaces an earlier one, as when it is unpacked; but what has names below it stays a folder. */
  #put(name: string, entry: Entry, place: LayerPlace): void {
    const earlier = this.index.get(name);
    if (earlier && (earlier.kind === 'directory') !== (entry.kind === 'directory')) {
      throw invalidLayer(place, 'a name is both a folder and none');
    }
    if (entry.kind === 'file') this.fileCount++;
    this.#nameBytes += earlier ? 0 : name.length;
    this.#nameBytes += entry.kind === 'symlink' ? entry.target.length : 0;
    if (this.#nameBytes > MAX_ARCHIVE_NAME_BYTES)
      throw invalidLayer(place, 'its names are too long');
    this.index.set(name, entry);
    if (this.index.size > MAX_ARCHIVE_ENTRIES) throw invalidLayer(place, 'it has too many entries');
  }
}

const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));

/** The content of a file lies behind its header. That of a sparse one does not: it would have to be put together. */
function spanOf({ place, sparse, sizeBytes }: TarMember): Entry {
  if (sparse) throw invalidLayer(place, 'a sparse file');
  return { kind: 'file', offsetBytes: place.offset + BLOCK_BYTES, sizeBytes };
}

/** What the reader of layers says of one is said of the archive. */
function asArchiveError(error: unknown): unknown {
  if (!VmforkError.is(error) || !error.code.startsWith('VMF_LAYER_')) return error;
  const detail = error.message.slice(ERROR_CODES[error.code].summary.length + ': '.length);
  return new VmforkError('VMF_IMAGE_INVALID', `archive: ${detail}`, { cause: error });
}
