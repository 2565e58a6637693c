// A stored layer as the tar stream that it packs. The reader sees the end of it only when every byte was right.

import { type FileHandle, open, rm } from 'node:fs/promises';
import { pipeline, Readable, Transform, type TransformCallback } from 'node:stream';
import * as zlib from 'node:zlib';
import { VmforkError } from '../errors.js';
import { watchLimits } from '../waiting.js';
import { DigestCheck } from './digest.js';
import { storeFailure } from './failure.js';
import { MAX_LAYER_BYTES } from './limits.js';
import type { Compression } from './media-types.js';
import { unpackZstd } from './zstd.js';

const CHUNK_BYTES = 1024 * 1024;
const READ_BYTES = 256 * 1024;
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
  const plain = startUnpacking(handle, layer);
  const stop = watchLimits('openLayer', { signal }, (error) => plain.destroy(error));
  const stream = Readable.from(readUnpacked(plain, layer.digest), {
    objectMode: false,
    highWaterMark: CHUNK_BYTES,
  });
  const { _destroy: destroy } = stream;
  stream._destroy = (...args) => {
    stop();
    plain.destroy(); // Else what is under way would be waited for.
    destroy.apply(stream, args);
  };
  return stream;
}

/** Sets the stages going. Returns the last, which pipeline() destroys with the error of any. */
function startUnpacking(handle: FileHandle, layer: PackedLayer): Transform {
  const source = handle.createReadStream({ highWaterMark: READ_BYTES });
  // What went bad on the disk is not kept: the next pull fetches it anew.
  const forget = () => rm(layer.path, { force: true });
  const packed = verify(layer.digest, 'stored layer', Number.POSITIVE_INFINITY, forget);
  const plain = verify(layer.diffId, 'unpacked layer', MAX_LAYER_BYTES);
  const unpacked = unpack(layer.compression);
  const stages = unpacked ? [source, packed, unpacked, plain] : [source, packed, plain];
  pipeline(stages as [Readable, Transform], () => {});
  return plain;
}

async function* readUnpacked(plain: Transform, digest: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of plain) yield chunk as Buffer;
  } catch (error) {
    throw unpackFailure(digest, error);
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
  return compression === 'zstd' ? zstdStage() : undefined;
}

/** Node 22.15 and newer have zstd; for older ones there is a decoder in JavaScript, some seven times slower. */
function zstdStage(): Unpacker {
  const { createZstdDecompress } = zlib as {
    createZstdDecompress?: (options: object) => Transform;
  };
  return createZstdDecompress?.({ chunkSize: CHUNK_BYTES }) ?? unpackZstd;
}
