// Long work on JavaScript's thread in short stretches: after a few milliseconds others get their turn.

import { setImmediate as nextTurn } from 'node:timers/promises';
import { VmforkError } from '../../errors.js';

const STRETCH_MS = 4;

/** Use as `if (breath.due) await breath.take()`, so that work that is not due costs no promise. */
export class Breath {
  readonly #signal: AbortSignal | undefined;
  #started = performance.now();

  constructor(signal?: AbortSignal) {
    this.#signal = signal;
  }

  get due(): boolean {
    return performance.now() - this.#started > STRETCH_MS;
  }

  /** Lets other work run. Throws `VMF_ABORTED` when the signal has fired. */
  async take(): Promise<void> {
    this.check();
    await nextTurn();
    this.check();
    this.#started = performance.now();
  }

  check(): void {
    if (!this.#signal?.aborted) return;
    throw new VmforkError('VMF_ABORTED', 'buildRootfs', { cause: this.#signal.reason });
  }
}
