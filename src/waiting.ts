// What every waiting call shares: an AbortSignal, a time limit, and promises settled from elsewhere.

import { VmforkError } from './errors.js';

/** Limits that every waiting call accepts. */
export interface WaitOptions {
  /** Gives up with `VMF_ABORTED` when it fires. */
  signal?: AbortSignal | undefined;
  /** Gives up with `VMF_TIMEOUT` after so many milliseconds. */
  timeoutMs?: number | undefined;
}

/** A promise with its two ends. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  resolve!: (value: T | PromiseLike<T>) => void;
  reject!: (reason: unknown) => void;

  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Somebody may only start to wait after the failure; that is no unhandled rejection.
    this.promise.catch(() => {});
  }
}

/** The error for a signal that has fired. */
export function abortedError(operation: string, signal: AbortSignal): VmforkError {
  return new VmforkError('VMF_ABORTED', operation, { operation, cause: signal.reason });
}

/** The error for a time limit that has passed. */
export function timeoutError(operation: string, timeoutMs: number): VmforkError {
  return new VmforkError('VMF_TIMEOUT', `${operation} after ${timeoutMs} ms`, { operation });
}

/** Throws `VMF_ABORTED` when the signal has fired already. */
export function throwIfAborted(operation: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortedError(operation, signal);
}

/** Calls `giveUp` once when a limit is hit. Returns what stops watching. */
export function watchLimits(
  operation: string,
  { signal, timeoutMs }: WaitOptions,
  giveUp: (error: VmforkError) => void,
): () => void {
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  };
  const end = (error: VmforkError) => {
    if (stopped) return;
    stop();
    giveUp(error);
  };
  const onAbort = () => end(abortedError(operation, signal as AbortSignal));
  if (timeoutMs !== undefined) {
    timer = setTimeout(() => end(timeoutError(operation, timeoutMs)), timeoutMs);
  }
  if (signal?.aborted) queueMicrotask(onAbort);
  else signal?.addEventListener('abort', onAbort);
  return stop;
}

/** Waits for `work` within limits. `onGiveUp` undoes what is under way when a limit is hit first. */
export function withLimits<T>(
  operation: string,
  limits: WaitOptions,
  work: Promise<T>,
  onGiveUp: (error: VmforkError) => void = () => {},
): Promise<T> {
  if (!limits.signal && limits.timeoutMs === undefined) return work;
  return new Promise((resolve, reject) => {
    const stop = watchLimits(operation, limits, (error) => {
      onGiveUp(error);
      reject(error);
    });
    work.finally(stop).then(resolve, reject);
  });
}

/** A signal that fires with the first of several, undefined without any. `unlink` ends that. */
export function linkSignals(...signals: (AbortSignal | undefined)[]): {
  signal: AbortSignal | undefined;
  unlink(): void;
} {
  const given = signals.filter((signal) => signal !== undefined);
  if (given.length <= 1) return { signal: given[0], unlink: () => {} };
  const controller = new AbortController();
  const onAbort = ({ target }: { target: unknown }) => {
    unlink();
    controller.abort((target as AbortSignal).reason);
  };
  const unlink = () => {
    for (const signal of given) signal.removeEventListener('abort', onAbort);
  };
  for (const signal of given) signal.addEventListener('abort', onAbort);
  const fired = given.find(({ aborted }) => aborted);
  if (fired) onAbort({ target: fired });
  return { signal: controller.signal, unlink };
}
