// Comparing what is on disk with its digests: at once, as long as it takes, or in the background at a bounded rate.

import { setTimeout as sleep } from 'node:timers/promises';
import { fromNative, VmforkError } from '../errors.js';
import type { NativeSnapshot, NativeVerifiedPart } from '../native.js';
import { integer, type Rules, WAIT_OPTIONS } from '../options.js';
import {
  linkSignals,
  throwIfAborted,
  timeoutError,
  type WaitOptions,
  withLimits,
} from '../waiting.js';

const DEFAULT_BYTES_PER_SECOND = 32 * 2 ** 20;

/** How far a scrub has come. */
export interface ScrubProgress {
  /** Bytes of all files that were looked at, holes included. */
  doneBytes: number;
  /** Bytes of all files. */
  totalBytes: number;
  /** Bytes that were read to get there. */
  readBytes: number;
}

/** Options of `snapshot.scrub()`. */
export interface ScrubOptions extends WaitOptions {
  /** Most bytes read in a second on average, 64 KiB to 1 TiB. Default 32 MiB. */
  bytesPerSecond?: number | undefined;
  /** Called after each part, about 1 MiB of what is not holes. */
  onProgress?: ((progress: ScrubProgress) => void) | undefined;
}

export const SCRUB_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  bytesPerSecond: integer(2 ** 16, 2 ** 40),
  onProgress: { accepts: 'a function', test: (value) => typeof value === 'function' },
};

/** See `snapshot.verify()`. Part by part: other work of the engine's threads goes on in between. */
export async function verifySnapshot(native: NativeSnapshot, limits: WaitOptions): Promise<void> {
  const { signal, timeoutMs } = limits;
  const deadline = performance.now() + (timeoutMs ?? Number.POSITIVE_INFINITY);
  const checkLimits = () => {
    throwIfAborted('verify', signal);
    if (performance.now() > deadline) throw timeoutError('verify', timeoutMs as number);
  };
  checkLimits();
  for await (const part of parts(native, false)) if (part.next !== 0) checkLimits();
}

/** See `snapshot.scrub()`. `gone` fires, with the error to end with, when the snapshot is destroyed. */
export async function scrubSnapshot(
  native: NativeSnapshot,
  options: ScrubOptions,
  gone: AbortSignal,
): Promise<ScrubProgress> {
  throwIfAborted('scrub', options.signal);
  const { signal, unlink } = linkSignals(options.signal, gone);
  const stop = new AbortController();
  try {
    return await withLimits(
      'scrub',
      { signal, timeoutMs: options.timeoutMs },
      scrub(native, options, stop.signal),
      () => stop.abort(),
    );
  } catch (error) {
    throw gone.aborted ? gone.reason : error;
  } finally {
    unlink();
  }
}

async function scrub(
  native: NativeSnapshot,
  { bytesPerSecond = DEFAULT_BYTES_PER_SECOND, onProgress }: ScrubOptions,
  stop: AbortSignal,
): Promise<ScrubProgress> {
  const progress: ScrubProgress = { doneBytes: 0, totalBytes: 0, readBytes: 0 };
  let startMs = performance.now();
  for await (const { next, end, readBytes } of parts(native, true)) {
    if (stop.aborted) break; // Somebody else has said why.
    progress.doneBytes = next || end;
    progress.totalBytes = end;
    progress.readBytes += readBytes;
    onProgress?.({ ...progress });
    // A part that took longer than it may is not made up for by reading faster later.
    startMs = Math.max(startMs + (readBytes / bytesPerSecond) * 1000, performance.now());
    const waitMs = startMs - performance.now();
    // After the last one as well: it may be started again at once.
    if (waitMs > 0) await sleep(waitMs, undefined, { signal: stop });
  }
  return progress;
}

/** All parts; whoever waits between two of them leaves the engine's threads to others. */
async function* parts(
  native: NativeSnapshot,
  inPassing: boolean,
): AsyncGenerator<NativeVerifiedPart, void, void> {
  let position = 0;
  do {
    const part = await verifyPart(native, position, inPassing);
    yield part;
    position = part.next;
  } while (position !== 0);
}

async function verifyPart(
  native: NativeSnapshot,
  position: number,
  inPassing: boolean,
): Promise<NativeVerifiedPart> {
  try {
    return await native.verify(position, inPassing);
  } catch (error) {
    throw fromNative(error);
  }
}

/** What a scrub ends with when its snapshot is destroyed. */
export function destroyedError(): VmforkError {
  return new VmforkError('VMF_STATE', 'the snapshot was destroyed');
}
