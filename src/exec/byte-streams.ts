// Node streams over a stream of the control connection, with credit as backpressure (docs/protocol.md, "Credit").

import { Readable, Writable } from 'node:stream';
import { IncomingCredit, OutgoingCredit } from './credit.js';
import { MAX_DATA_BYTES, WINDOW_BYTES } from './frames.js';
import type { OpenStream } from './session.js';

/** What the guest writes. Credit goes back when the reader has taken the bytes, so the buffer never exceeds one window. */
export class GuestReadable extends Readable {
  readonly #credit: IncomingCredit;

  constructor(stream: OpenStream, aux: number) {
    super({ highWaterMark: WINDOW_BYTES });
    this.#credit = new IncomingCredit(stream, aux);
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
    this.#credit.settle(this.destroyed ? 0 : this.readableLength);
  }
}

/** What the guest reads. A write completes when all of it was sent, which the guest's credit allows. */
export class GuestWritable extends Writable {
  readonly #credit: OutgoingCredit;

  constructor(stream: OpenStream, aux: number) {
    super({ highWaterMark: MAX_DATA_BYTES });
    this.#credit = new OutgoingCredit(stream, aux);
  }

  /** A `WINDOW` frame has come. */
  addCredit(bytes: number): void {
    this.#credit.add(bytes);
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
    this.#credit.drop();
    this.#credit.end();
    callback(error);
  }
}

/** Ends a stream whose machine is gone. With nobody listening for errors it just closes, so that no process dies of it. */
export function failStream(stream: Readable | Writable, error: Error): void {
  if (stream.destroyed) return;
  if (stream.listenerCount('error') > 0) stream.destroy(error);
  else stream.destroy();
}
