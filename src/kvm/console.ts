// A guest's serial console.

import { PassThrough, type Readable } from 'node:stream';
import type { NativeVm } from '../native.js';

// Console output that a slow reader may leave waiting; beyond that the stream loses the newest, as a real terminal line would.
const MAX_UNREAD_BYTES = 1024 * 1024;

/** The serial console of a VM. */
export class GuestConsole {
  readonly #native: NativeVm;
  readonly #readers = new Set<PassThrough>();
  #last: string | undefined;

  /** @internal */
  constructor(native: NativeVm) {
    this.#native = native;
  }

  /** The newest output, at most `consoleBytes` of the boot or fork. Stays readable after the VM has ended. */
  tail(): string {
    return this.#last ?? Buffer.from(this.#native.consoleTail()).toString('utf8');
  }

  /** Output from now on. Ends with the VM; destroying it stops listening. */
  stream(): Readable {
    const reader = new PassThrough({ highWaterMark: MAX_UNREAD_BYTES });
    if (this.#last !== undefined) return reader.end();
    if (this.#readers.size === 0) this.#native.watchConsole(true);
    this.#readers.add(reader);
    reader.once('close', () => this.#remove(reader));
    return reader;
  }

  /** @internal */
  receive(bytes: Uint8Array): void {
    for (const reader of this.#readers) {
      if (reader.writableLength + reader.readableLength < MAX_UNREAD_BYTES) reader.write(bytes);
    }
  }

  /** @internal The VM was reset: its machine is another one, which nobody watches yet. */
  renew(): void {
    if (this.#readers.size > 0) this.#native.watchConsole(true);
  }

  /** @internal The VM has ended. */
  end(): void {
    if (this.#last !== undefined) return;
    this.#last = this.tail();
    for (const reader of this.#readers) reader.end();
  }

  #remove(reader: PassThrough): void {
    this.#readers.delete(reader);
    if (this.#readers.size === 0 && this.#last === undefined) this.#native.watchConsole(false);
  }
}
