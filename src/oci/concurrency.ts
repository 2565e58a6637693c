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

/** Runs a step for each item, at most `most` at once. The first failure ends it, after `onFailure` stopped the others. */
export async function forEachLimited<T>(
  items: readonly T[],
  most: number,
  step: (item: T) => Promise<void>,
  onFailure: () => void,
): Promise<void> {
  const queue = items.values();
  const failures: unknown[] = [];
  const worker = async () => {
    for (const item of queue) {
      if (failures.length > 0) return;
      try {
        await step(item);
      } catch (error) {
        failures.push(error);
        onFailure();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(most, items.length) }, worker));
  if (failures.length > 0) throw failures[0];
}
