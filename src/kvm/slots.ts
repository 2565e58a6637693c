// A counting semaphore: bounds how much goes on at once, first come, first served.

import { abortedError, throwIfAborted } from '../waiting.js';

interface Waiter {
  start(): void;
  giveUp(): void;
}

export class Slots {
  #free: number;
  // In the order of arrival.
  readonly #waiting = new Set<Waiter>();
  readonly #watched = new Map<AbortSignal, Set<Waiter>>();

  constructor(count: number) {
    this.#free = count;
  }

  /** Runs `work` when a slot is free. Rejects with `VMF_ABORTED` as soon as the signal fires in the queue. */
  async run<T>(
    operation: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    throwIfAborted(operation, signal);
    if (this.#free > 0) this.#free--;
    else await this.#wait(operation, signal);
    try {
      return await work();
    } finally {
      this.#giveBack();
    }
  }

  #wait(operation: string, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        start: () => {
          if (signal) this.#unwatch(signal, waiter);
          resolve();
        },
        giveUp: () => {
          this.#waiting.delete(waiter);
          reject(abortedError(operation, signal as AbortSignal));
        },
      };
      if (signal) this.#watch(signal, waiter);
      this.#waiting.add(waiter);
    });
  }

  /** One listener a signal, however many wait: a hundred forks may share one. */
  #watch(signal: AbortSignal, waiter: Waiter): void {
    const known = this.#watched.get(signal);
    if (known) {
      known.add(waiter);
      return;
    }
    this.#watched.set(signal, new Set([waiter]));
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  #unwatch(signal: AbortSignal, waiter: Waiter): void {
    const waiters = this.#watched.get(signal);
    waiters?.delete(waiter);
    if (waiters?.size !== 0) return;
    this.#watched.delete(signal);
    signal.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = ({ target }: Event): void => {
    const signal = target as AbortSignal;
    const waiters = this.#watched.get(signal) ?? [];
    this.#watched.delete(signal);
    for (const waiter of waiters) waiter.giveUp();
  };

  #giveBack(): void {
    const [next] = this.#waiting;
    if (!next) {
      this.#free++;
      return;
    }
    // A slot given back goes straight to the next in line.
    this.#waiting.delete(next);
    next.start();
  }
}
