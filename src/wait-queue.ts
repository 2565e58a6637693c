// A queue of callers, first come, first served, each of whom may give up: by an AbortSignal or after a time.

import { abortedError, throwIfAborted, type WaitOptions } from './waiting.js';

interface Waiter<T> {
  readonly item: T;
  start(): void;
  abort(): void;
  giveUp(error: Error): void;
}

export class WaitQueue<T> {
  // In the order of arrival.
  readonly #waiting = new Set<Waiter<T>>();
  readonly #watched = new Map<AbortSignal, Set<Waiter<T>>>();
  readonly #timeout: (operation: string, timeoutMs: number) => Error;

  /** `timeout` makes the error for those whose time is over. */
  constructor(timeout: (operation: string, timeoutMs: number) => Error) {
    this.#timeout = timeout;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** What the first in line waits with. */
  get first(): T | undefined {
    const [waiter] = this.#waiting;
    return waiter?.item;
  }

  /** Resolves when it is this caller's turn; rejects with `VMF_ABORTED` as soon as the signal fires. */
  wait(operation: string, { signal, timeoutMs }: WaitOptions, item: T): Promise<void> {
    throwIfAborted(operation, signal);
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined;
      const leave = () => {
        this.#waiting.delete(waiter);
        clearTimeout(timer);
        if (signal) this.#unwatch(signal, waiter);
      };
      const waiter: Waiter<T> = {
        item,
        start: () => {
          leave();
          resolve();
        },
        abort: () => waiter.giveUp(abortedError(operation, signal as AbortSignal)),
        giveUp: (error) => {
          leave();
          reject(error);
        },
      };
      if (timeoutMs !== undefined) {
        const late = () => waiter.giveUp(this.#timeout(operation, timeoutMs));
        timer = setTimeout(late, timeoutMs);
      }
      if (signal) this.#watch(signal, waiter);
      this.#waiting.add(waiter);
    });
  }

  /** The first in line may start. Returns whether there was one. */
  startFirst(): boolean {
    const [waiter] = this.#waiting;
    waiter?.start();
    return waiter !== undefined;
  }

  /** Sends all away. */
  fail(error: Error): void {
    for (const waiter of [...this.#waiting]) waiter.giveUp(error);
  }

  /** One listener a signal, however many wait: a hundred forks may share one. */
  #watch(signal: AbortSignal, waiter: Waiter<T>): void {
    const known = this.#watched.get(signal);
    if (known) {
      known.add(waiter);
      return;
    }
    this.#watched.set(signal, new Set([waiter]));
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  #unwatch(signal: AbortSignal, waiter: Waiter<T>): void {
    const waiters = this.#watched.get(signal);
    waiters?.delete(waiter);
    if (waiters?.size !== 0) return;
    this.#watched.delete(signal);
    signal.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = ({ target }: Event): void => {
    for (const waiter of [...(this.#watched.get(target as AbortSignal) ?? [])]) waiter.abort();
  };
}
