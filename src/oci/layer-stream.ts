// A stored layer as the tar stream that it packs. The reader sees the end of it only when every byte was right.

import { type FileHandle, open, rm } from 'node:fs/promises';
import { pipeline, Readable, Transform, type TransformCallback } from 'node:stream';
import * as zlib from 'node:zlib';
import { Decompress } from 'fzstd';
import { VmforkError } from '../errors.js';
import { throwIfAborted } from '../waiting.js';
import { DigestCheck } from './digest.js';
import { storeFailure } from './failure.js';
import { MAX_LAYER_BYTES } from './limits.js';
import type { Compression } from './media-types.js';

const CHUNK_BYTES = 1024 * 1024;
const READ_BYTES = 256 * 1024;
/**
 * How much of a zstd stream fzstd gets at a time. It hands over all that comes out of it at once: a block of 4 bytes may
 * become 128 KiB (RFC 8878, 3.1.1.2), so this is at most 128 MiB.
 */
const ZSTD_STEP_BYTES = 4096;

/** Content of a file, opened at its path: what a layer is packed in. */
export interface PackedLayer {
  readonly path: string;
  readonly digest: string;
  readonly compression: Compression;
  /** Digest of the unpacked layer. */
  readonly diffId: string;
}

/** Opens a layer. The stream fails with `VMF_IMAGE_DIGEST` or `VMF_IMAGE_INVALID` instead of ending when it is wrong. */
export async function openLayerStream(layer: PackedLayer, signal?: AbortSignal): Promise<Readable> {
  let handle: FileHandle;
  try {
    handle = await open(layer.path, 'r');
  } catch (error) {
    throw storeFailure(`open layer ${layer.digest}`, error);
  }
  return Readable.from(unpackLayer(handle, layer, signal), {
    objectMode: false,
    highWaterMark: CHUNK_BYTES,
  });
}

async function* unpackLayer(
  handle: FileHandle,
  layer: PackedLayer,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  const source = handle.createReadStream({ highWaterMark: READ_BYTES });
  // What went bad on the disk is not kept: the next pull fetches it anew.
  const forget = () => rm(layer.path, { force: true });
  const packed = verify(layer.digest, 'stored layer', Number.POSITIVE_INFINITY, forget);
  const plain = verify(layer.diffId, 'unpacked layer', MAX_LAYER_BYTES);
  const unpacked = unpack(layer.compression);
  const stages = unpacked ? [source, packed, unpacked, plain] : [source, packed, plain];
  // Errors reach the reader through the last stage, which pipeline() destroys with them.
  pipeline(stages as [Readable, Transform], () => {});
  try {
    for await (const chunk of plain) {
      throwIfAborted('openLayer', signal);
      yield chunk as Buffer;
    }
  } catch (error) {
    throw unpackFailure(layer.digest, error);
  }
}

function unpackFailure(digest: string, thrown: unknown): VmforkError {
  const error = thrown as NodeJS.ErrnoException;
  if (VmforkError.is(error)) return error;
  // zlib's own errors have codes like Z_DATA_ERROR and an errno that is none of the system.
  if (error.syscall) return storeFailure(`read layer ${digest}`, error);
  const detail = `layer ${digest} cannot be unpacked: ${error.message}`;
  return new VmforkError('VMF_IMAGE_INVALID', detail, { cause: error });
}

/** Lets content pass, and its end only when the digest fits. `onMismatch` runs before the failure is seen. */
function verify(
  digest: string,
  what: string,
  most: number,
  onMismatch: () => Promise<void> = async () => {},
): Transform {
  const check = new DigestCheck(digest);
  return new Transform({
    readableHighWaterMark: CHUNK_BYTES,
    writableHighWaterMark: CHUNK_BYTES,
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      check.update(chunk);
      if (check.sizeBytes <= most) return done(null, chunk);
      done(new VmforkError('VMF_IMAGE_INVALID', `${what} is larger than ${most} bytes`));
    },
    flush(done: TransformCallback) {
      try {
        check.finish(what);
        done();
      } catch (error) {
        onMismatch().then(() => done(error as Error), done);
      }
    },
  });
}

type Unpacker = Transform | ((source: AsyncIterable<Buffer>) => AsyncGenerator<Uint8Array>);

/** A stage of a pipeline that unpacks; undefined when there is nothing to unpack. */
export function unpack(compression: Compression): Unpacker | undefined {
  if (compression === 'gzip') return zlib.createGunzip({ chunkSize: CHUNK_BYTES });
  return compression === 'zstd' ? unpackZstd() : undefined;
}

/** Node 22.15 and newer have zstd; older ones get fzstd, some seven times slower. */
function unpackZstd(): Unpacker {
  const { createZstdDecompress } = zlib as {
    createZstdDecompress?: (options: object) => Transform;
  };
  return createZstdDecompress?.({ chunkSize: CHUNK_BYTES }) ?? runFzstd;
}

async function* runFzstd(source: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  const unpacked: Uint8Array[] = [];
  const decoder = new Decompress((bytes) => {
    if (bytes.length > 0) unpacked.push(bytes);
  });
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length; at += ZSTD_STEP_BYTES) {
      decoder.push(chunk.subarray(at, at + ZSTD_STEP_BYTES));
      for (const bytes of unpacked) yield bytes;
      unpacked.length = 0;
    }
  }
  decoder.push(new Uint8Array(0), true);
  for (const bytes of unpacked) yield bytes;
}
