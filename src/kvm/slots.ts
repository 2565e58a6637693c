// A counting semaphore: bounds how much goes on at once, first come, first served.

import { throwIfAborted } from '../waiting.js';

export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** Runs `work` when a slot is free. */
  async run<T>(
    operation: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      throwIfAborted(operation, signal);
      return await work();
    } finally {
      // A slot given back goes straight to the next in line.
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}
