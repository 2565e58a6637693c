// A counting semaphore: bounds how much goes on at once, first come, first served.

import { abortedError, throwIfAborted } from '../waiting.js';

export class Slots {
  #free: number;
  // In the order of arrival.
  readonly #waiting = new Set<() => void>();

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
      const start = () => {
        signal?.removeEventListener('abort', giveUp);
        resolve();
      };
      const giveUp = () => {
        this.#waiting.delete(start);
        reject(abortedError(operation, signal as AbortSignal));
      };
      signal?.addEventListener('abort', giveUp, { once: true });
      this.#waiting.add(start);
    });
  }

  #giveBack(): void {
    const [next] = this.#waiting;
    if (!next) {
      this.#free++;
      return;
    }
    // A slot given back goes straight to the next in line.
    this.#waiting.delete(next);
    next();
  }
}
