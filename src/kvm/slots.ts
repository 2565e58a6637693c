// A counting semaphore: bounds how much goes on at once, first come, first served.

import { WaitQueue } from '../wait-queue.js';
import { throwIfAborted, timeoutError } from '../waiting.js';

export class Slots {
  #free: number;
  readonly #queue = new WaitQueue<null>(timeoutError);

  constructor(count: number) {
    this.#free = count;
  }

  /** Whether there was a free one, which is the caller's from now on. */
  tryTake(): boolean {
    if (this.#free === 0) return false;
    this.#free--;
    return true;
  }

  /** Waits for one in line. Fails with `VMF_ABORTED` as soon as the signal fires. */
  wait(operation: string, signal: AbortSignal | undefined): Promise<void> {
    return this.#queue.wait(operation, { signal }, null);
  }

  /** A slot that is given back goes straight to the next in line. */
  giveBack(): void {
    if (!this.#queue.startFirst()) this.#free++;
  }

  /** Runs `work` within a slot; rejects as {@link wait} does. */
  async run<T>(
    operation: string,
    signal: AbortSignal | undefined,
    work: () => Promise<T>,
  ): Promise<T> {
    throwIfAborted(operation, signal);
    if (!this.tryTake()) await this.wait(operation, signal);
    try {
      return await work();
    } finally {
      this.giveBack();
    }
  }
}
