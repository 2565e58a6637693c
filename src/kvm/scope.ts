// A lifetime that clones and snapshots share: all that is forked in a scope ends with it, whatever ends the scope.

import { VmforkError } from '../errors.js';
import { checkOptions, WAIT_OPTIONS } from '../options.js';

/** What a scope can end. */
export interface ScopeMember {
  destroy(): Promise<void>;
}

/**
 * Owns clones and snapshots: `await using scope = new CloneScope()`, then `snapshot.fork({ scope })`. Snapshots and
 * branches of its clones, and clones of those, belong to it too.
 */
export class CloneScope {
  readonly #members = new Set<ScopeMember>();
  readonly #pending = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => {
    this.destroy().catch(() => {}); // Whoever disposes of the scope is told.
  };
  #ended: Promise<void> | undefined;

  /** With a signal, the scope ends when it fires. */
  constructor({ signal, ...unknown }: { signal?: AbortSignal | undefined } = {}) {
    checkOptions('CloneScope', { signal: WAIT_OPTIONS.signal as never }, { signal, ...unknown });
    this.#signal = signal;
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Clones and snapshots that live in it. */
  get size(): number {
    return this.#members.size;
  }

  /** Fires when the scope ends. */
  get signal(): AbortSignal {
    return this.#closing.signal;
  }

  /** Takes over a VM or snapshot made elsewhere. Throws `VMF_STATE` when the scope has ended. */
  add(member: ScopeMember): void {
    this.assertOpen();
    this.#members.add(member);
  }

  /** Lets go of one, which then lives on by itself. */
  remove(member: ScopeMember): void {
    this.#members.delete(member);
  }

  /** Aborts forks under way and destroys all that lives in it; resolves when they are gone. Idempotent. */
  destroy(): Promise<void> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.destroy();
  }

  /** @internal Waits for `work` before it ends; what `work` makes and adds is destroyed then. */
  async track<T>(work: Promise<T>): Promise<T> {
    this.#pending.add(work);
    try {
      return await work;
    } finally {
      this.#pending.delete(work);
    }
  }

  /** @internal */
  assertOpen(): void {
    if (this.signal.aborted) throw new VmforkError('VMF_STATE', 'the scope has ended');
  }

  async #end(): Promise<void> {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#closing.abort(this.#signal?.aborted ? this.#signal.reason : undefined);
    await Promise.allSettled(this.#pending);
    const members = [...this.#members];
    this.#members.clear();
    await Promise.all(members.map((member) => member.destroy()));
  }
}
