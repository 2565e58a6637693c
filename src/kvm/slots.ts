// A counting semaphore: bounds how much goes on at once, first come, first served.

import { WaitQueue } from '../wait-queue.js';
import { throwIfAborted, timeoutError } from '../waiting.js';

export class Slots {
  #free: number;
  readonly #queue = new WaitQueue<null>(timeoutError);

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
    else await this.#queue.wait(operation, { signal }, null);
    try {
      return await work();
    } finally {
      // A slot given back goes straight to the next in line.
      if (!this.#queue.startFirst()) this.#free++;
    }
  }
}
