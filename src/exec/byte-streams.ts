// Node streams over a stream of the control connection, with credit as backpressure (docs/protocol.md, "Credit").

import { Readable, Writable } from 'node:stream';
import { IncomingCredit, OutgoingCredit } from './credit.js';
import { MAX_DATA_BYTES, WINDOW_BYTES } from './frames.js';
import type { OpenStream } from './session.js';

/** What the guest writes. Credit goes back when the reader has taken the bytes, so the buffer never exceeds one window. */
export class GuestReadable extends Readable {
  readonly #credit: IncomingCredit;
  #released = false;

  constructor(stream: OpenStream, aux: number, credit = new IncomingCredit(stream, aux)) {
    super({ highWaterMark: WINDOW_BYTES });
    this.#credit = credit;
    if (credit.ended) this.push(null);
  }

  /** Bytes received in all. */
  get bytesRead(): number {
    return this.#credit.received;
  }

  /** A `DATA` frame has come. */
  receive(bytes: Buffer): void {
    this.#credit.spend(bytes.length);
    if (bytes.length > 0 && !this.destroyed) this.push(bytes);
    this.#settle();
  }

  /** The guest sends no more. */
  finish(): void {
    if (this.#credit.ended) return;
    this.#credit.end();
    if (!this.destroyed) this.push(null);
  }

  /** Ends it behind what has come, which is paid for as if it had been read; another stream goes on with the credit. */
  release(): IncomingCredit {
    this.#released = true;
    if (!this.#credit.ended && !this.destroyed) this.push(null);
    this.#credit.settle(0);
    return this.#credit;
  }

  override _read(): void {}

  override read(size?: number): ReturnType<Readable['read']> {
    const chunk: unknown = super.read(size);
    this.#settle();
    return chunk;
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    // Nobody reads any more, but the program must not block on its output: from here on bytes are dropped and paid for.
    callback(error);
    this.#settle();
  }

  #settle(): void {
    if (!this.#released) this.#credit.settle(this.destroyed ? 0 : this.readableLength);
  }
}

/** What the guest reads. A write completes when all of it was sent, which the guest's credit allows. */
export class GuestWritable extends Writable {
  readonly #credit: OutgoingCredit;
  #released = false;

  constructor(stream: OpenStream, aux: number, credit = new OutgoingCredit(stream, aux)) {
    super({ highWaterMark: MAX_DATA_BYTES });
    this.#credit = credit;
    if (credit.ended) this.end();
  }

  /** A `WINDOW` frame has come. */
  addCredit(bytes: number): void {
    this.#credit.add(bytes);
  }

  /** Closes it without telling the guest; what was not sent is dropped. Another stream goes on with the credit. */
  release(): OutgoingCredit {
    this.#released = true;
    this.#credit.drop();
    this.destroy();
    return this.#credit;
  }

  override _write(
    chunk: Buffer,
    _encoding: string,
    callback: (error?: Error | null) => void,
  ): void {
    this.#credit.write(chunk, callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#credit.end();
    callback();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    if (!this.#released) {
      this.#credit.drop();
      this.#credit.end();
    }
    callback(error);
  }
}

/** Ends a stream whose machine is gone. With nobody listening for errors it just closes, so that no process dies of it. */
export function failStream(stream: Readable | Writable, error: Error): void {
  if (stream.destroyed) return;
  if (stream.listenerCount('error') > 0) stream.destroy(error);
  else stream.destroy();
}
