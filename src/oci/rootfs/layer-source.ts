// Where layers come from: a stream of decompressed tar bytes that whoever keeps the layer opens for us.

import { VmforkError } from '../../errors.js';
import { invalidLayer } from './limits.js';
import { systemFailure } from './system-failure.js';

/** One layer of an image. */
export interface LayerSource {
  /** Digest of the layer as distributed; for messages only. */
  digest?: string | undefined;
  /** Digest of the decompressed layer, `algorithm:hex`. `ensureRootfs` needs it. */
  diffId?: string | undefined;
  /**
   * Opens the decompressed tar stream from its beginning. Called once, and a second time when a hard link of a layer above
   * needs a file that is hidden otherwise. The source verifies digests: an error it throws ends the building.
   */
  open(): AsyncIterable<Uint8Array> | Promise<AsyncIterable<Uint8Array>>;
}

/** The layer's bytes. A source that stalls can be left by the signal; what the source throws becomes a typed error. */
export async function* chunksOf(
  source: LayerSource,
  layer: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer> {
  let iterator: AsyncIterator<Uint8Array> | undefined;
  try {
    iterator = (await source.open())[Symbol.asyncIterator]();
    for (;;) {
      const { done, value } = await unlessAborted(iterator.next(), signal);
      if (done) break;
      if (!(value instanceof Uint8Array)) {
        throw new VmforkError('VMF_OPTIONS', `layer ${layer}: its stream must give Uint8Arrays`);
      }
      yield Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
    iterator = undefined;
  } catch (cause) {
    throw streamFailure(cause, layer);
  } finally {
    // A source that stalls may not answer, so its end is not waited for.
    iterator?.return?.().catch(() => {});
  }
}

function streamFailure(cause: unknown, layer: number): VmforkError {
  if (VmforkError.is(cause)) return cause;
  const { code, syscall } = cause as NodeJS.ErrnoException;
  if (code !== undefined && syscall !== undefined) {
    return systemFailure(syscall, `layer ${layer}`, cause);
  }
  const what = `its stream failed: ${cause instanceof Error ? cause.message : String(cause)}`;
  const failure = invalidLayer({ layer, offset: 0, name: '' }, what);
  return Object.assign(failure, { cause });
}

/** Waits for `next`, or fails with `VMF_ABORTED` when the signal fires first. */
function unlessAborted<T>(next: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return next;
  return new Promise((resolve, reject) => {
    const abort = () => {
      reject(new VmforkError('VMF_ABORTED', 'buildRootfs', { cause: signal.reason }));
    };
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    next.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
