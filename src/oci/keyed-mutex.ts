// One holder a key: two pulls in a process do not download the same layer twice.

import { Deferred, withLimits } from '../waiting.js';

export class KeyedMutex {
  readonly #tails = new Map<string, Promise<void>>();

  /** Runs the step when nobody else of this mutex runs one for the key. Waiting ends with `VMF_ABORTED`. */
  async run<T>(key: string, signal: AbortSignal | undefined, step: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const done = new Deferred<void>();
    const tail = before.then(() => done.promise);
    this.#tails.set(key, tail);
    try {
      await withLimits('pull', { signal }, before);
      return await step();
    } finally {
      done.resolve();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }
}
