// Where an import reads from: a folder or a tar file, both as files by name.

import { constants } from 'node:fs';
import { type FileHandle, open, readlink, realpath, rm, stat } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { VmforkError } from '../errors.js';
import { ownedName } from '../owner.js';
import { throwIfAborted } from '../waiting.js';
import { readSpan, readWhole, TarArchive } from './archive.js';
import type { BlobStore } from './blobs.js';
import { hasErrno, storeFailure, storing } from './failure.js';
import { unpack } from './layer-stream.js';
import { MAX_DOCUMENT_BYTES, MAX_LAYER_BYTES } from './limits.js';
import type { Compression } from './media-types.js';

/** A file to import from. It must be closed. */
export interface SourceFile {
  readonly sizeBytes: number;
  chunks(): AsyncIterable<Buffer>;
  close(): Promise<void>;
}

/** Files by name. Nothing outside is reached through a name. */
export interface ImportSource {
  /** Undefined: there is no such file. */
  open(name: string): Promise<SourceFile | undefined>;
  close(): Promise<void>;
}

/** Opens a folder, or a tar file that may be compressed. */
export async function openSource(
  blobs: BlobStore,
  path: string,
  signal?: AbortSignal,
): Promise<ImportSource> {
  const found = await storing(`open ${path}`, () => stat(path)).catch(throwNotFound(path));
  if (found.isDirectory()) {
    return new FolderSource(await storing(`open ${path}`, () => realpath(path)));
  }
  const handle = await openRegular(path);
  if (!handle) throw new VmforkError('VMF_IMAGE_INVALID', `${path} is neither a folder nor a file`);
  try {
    const compression = await sniff(handle);
    if (compression === 'none') return new TarSource(handle, await TarArchive.read(handle, signal));
    return await unpackArchive(blobs, handle, compression, signal);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The content of a small file. Undefined: there is no such file. */
export async function readDocument(
  source: ImportSource,
  name: string,
): Promise<Buffer | undefined> {
  const file = await source.open(name);
  if (!file) return undefined;
  try {
    if (file.sizeBytes > MAX_DOCUMENT_BYTES) {
      const detail = `${name} is larger than ${MAX_DOCUMENT_BYTES} bytes`;
      throw new VmforkError('VMF_IMAGE_INVALID', detail);
    }
    const chunks: Buffer[] = [];
    for await (const chunk of file.chunks()) chunks.push(chunk);
    return Buffer.concat(chunks);
  } finally {
    await file.close();
  }
}

/** How a file is packed, by its first bytes: RFC 1952, 2.3.1 and RFC 8878, 3.1.1. */
export function compressionOfBytes(start: Uint8Array): Compression {
  const hex = Buffer.from(start.subarray(0, 4)).toString('hex');
  if (hex.startsWith('1f8b')) return 'gzip';
  return hex === '28b52ffd' ? 'zstd' : 'none';
}

function throwNotFound(path: string) {
  return (error: VmforkError): never => {
    if (!hasErrno(error.cause, 'ENOENT')) throw error;
    throw new VmforkError('VMF_IMAGE_NOT_FOUND', `there is no ${path}`, { cause: error.cause });
  };
}

class FolderSource implements ImportSource {
  readonly #path: string;

  /** `path`: without symbolic links. */
  constructor(path: string) {
    this.#path = path;
  }

  async open(name: string): Promise<SourceFile | undefined> {
    if (isAbsolute(name) || name.includes('\0') || name.split('/').includes('..')) {
      throw leadsOut(name);
    }
    const path = await this.#resolve(name);
    const handle = path === undefined ? undefined : await openRegular(path);
    if (!handle) return undefined;
    // A link that was put there after the look at it has led elsewhere.
    const opened = await storing(`stat ${name}`, () => readlink(`/proc/self/fd/${handle.fd}`));
    if (opened !== path) {
      await handle.close();
      throw leadsOut(name);
    }
    const { size } = await storing(`stat ${name}`, () => handle.stat());
    const span = { offsetBytes: 0, sizeBytes: size };
    return { sizeBytes: size, chunks: () => readSpan(handle, span), close: () => handle.close() };
  }

  /** Where a name leads through links, which must stay within the folder. Undefined: nowhere. */
  async #resolve(name: string): Promise<string | undefined> {
    let path: string;
    try {
      path = await realpath(join(this.#path, name));
    } catch (error) {
      const nowhere = ['ELOOP', 'ENAMETOOLONG', 'ENOENT', 'ENOTDIR'];
      if (nowhere.some((code) => hasErrno(error, code))) return undefined;
      throw storeFailure(`open ${name}`, error);
    }
    if (!path.startsWith(join(this.#path, '/'))) throw leadsOut(name);
    return path;
  }

  async close(): Promise<void> {}
}

function leadsOut(name: string): VmforkError {
  const shown = JSON.stringify(name.slice(0, 200));
  return new VmforkError('VMF_IMAGE_INVALID', `${shown} leads out of the folder`);
}

class TarSource implements ImportSource {
  readonly #handle: FileHandle;
  readonly #archive: TarArchive;

  constructor(handle: FileHandle, archive: TarArchive) {
    this.#handle = handle;
    this.#archive = archive;
  }

  async open(name: string): Promise<SourceFile | undefined> {
    const span = this.#archive.find(Buffer.from(name).toString('latin1'));
    if (!span) return undefined;
    const { sizeBytes } = span;
    return { sizeBytes, chunks: () => readSpan(this.#handle, span), close: async () => {} };
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

/** Opens a regular file. Undefined when it is missing or something else; a pipe must not keep us waiting. */
async function openRegular(path: string): Promise<FileHandle | undefined> {
  let handle: FileHandle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ENXIO'].some((code) => hasErrno(error, code))) return undefined;
    return storing(`open ${path}`, () => Promise.reject(error));
  }
  const found = await handle.stat();
  if (found.isFile()) return handle;
  await handle.close();
  return undefined;
}

async function sniff(handle: FileHandle): Promise<Compression> {
  const { size } = await handle.stat();
  return compressionOfBytes(
    await readWhole(handle, { offsetBytes: 0, sizeBytes: Math.min(4, size) }),
  );
}

/** Unpacks a compressed archive into a file of the store without a name, which is gone when it is closed. */
async function unpackArchive(
  blobs: BlobStore,
  packed: FileHandle,
  compression: Compression,
  signal: AbortSignal | undefined,
): Promise<ImportSource> {
  const path = join(blobs.directory, 'temp', ownedName());
  const { size } = await packed.stat();
  const plain = await storing(`create ${path}`, () => open(path, 'wx+', 0o600));
  try {
    await storing(`remove ${path}`, () => rm(path));
    const stage = unpack(compression) as NodeJS.ReadWriteStream;
    const store = async (chunks: AsyncIterable<unknown>) => {
      let done = 0;
      for await (const chunk of chunks as AsyncIterable<Uint8Array>) {
        done += chunk.length;
        if (done > MAX_LAYER_BYTES) throw new VmforkError('VMF_IMAGE_INVALID', 'it is too large');
        await storing(`write ${path}`, () => plain.appendFile(chunk));
      }
    };
    const bytes = readSpan(packed, { offsetBytes: 0, sizeBytes: size });
    await pipeline(bytes, stage, store, { ...(signal && { signal }) });
    const archive = await TarArchive.read(plain, signal);
    await packed.close();
    return new TarSource(plain, archive);
  } catch (error) {
    await plain.close();
    throwIfAborted('import', signal);
    if (VmforkError.is(error)) throw error;
    throw new VmforkError('VMF_IMAGE_INVALID', 'the archive cannot be unpacked', { cause: error });
  }
}
