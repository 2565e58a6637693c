// Node streams over a stream of the control connection, with credit as backpressure (docs/protocol.md, "Credit").

import { Readable, Writable } from 'node:stream';
import { VmforkError } from '../errors.js';
import { FrameType, MAX_DATA_BYTES, WINDOW_BYTES } from './frames.js';
import type { OpenStream } from './session.js';

// Half a window: rarely enough to cost a slow guest few packets, often enough that the sender never runs dry.
const CREDIT_STEP_BYTES = WINDOW_BYTES / 2;

/** What the guest writes. Credit goes back when the reader has taken the bytes, so the buffer never exceeds one window. */
export class GuestReadable extends Readable {
  readonly #stream: OpenStream;
  readonly #aux: number;
  #credit = WINDOW_BYTES;
  #received = 0;
  #returned = 0;
  #ended = false;

  constructor(stream: OpenStream, aux: number) {
    super({ highWaterMark: WINDOW_BYTES });
    this.#stream = stream;
    this.#aux = aux;
  }

  /** Bytes received in all. */
  get bytesRead(): number {
    return this.#received;
  }

  /** A `DATA` frame has come. */
  receive(bytes: Buffer): void {
    if (this.#ended) throw new VmforkError('VMF_PROTOCOL', 'DATA after EOF');
    if (bytes.length > this.#credit) throw new VmforkError('VMF_PROTOCOL', 'DATA without credit');
    this.#credit -= bytes.length;
    this.#received += bytes.length;
    if (bytes.length > 0 && !this.destroyed) this.push(bytes);
    this.#returnCredit();
  }

  /** The guest sends no more. */
  finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    if (!this.destroyed) this.push(null);
  }

  override _read(): void {}

  override read(size?: number): ReturnType<Readable['read']> {
    const chunk: unknown = super.read(size);
    this.#returnCredit();
    return chunk;
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    // Nobody reads any more, but the program must not block on its output: from here on bytes are dropped and paid for.
    callback(error);
    this.#returnCredit();
  }

  #returnCredit(): void {
    if (this.#ended) return;
    const held = this.destroyed ? 0 : this.readableLength;
    const owed = this.#received - held - this.#returned;
    if (owed < CREDIT_STEP_BYTES) return;
    this.#returned += owed;
    this.#credit += owed;
    this.#stream.send({ type: FrameType.WINDOW, aux: this.#aux, value: owed });
  }
}

/** What the guest reads. A write completes when all of it was sent, which the guest's credit allows. */
export class GuestWritable extends Writable {
  readonly #stream: OpenStream;
  readonly #aux: number;
  #credit = WINDOW_BYTES;
  #rest: Buffer | null = null;
  #done: ((error?: Error | null) => void) | null = null;
  #closed = false;

  constructor(stream: OpenStream, aux: number) {
    super({ highWaterMark: MAX_DATA_BYTES });
    this.#stream = stream;
    this.#aux = aux;
  }

  /** A `WINDOW` frame has come. */
  addCredit(bytes: number): void {
    this.#credit += bytes;
    if (this.#credit > WINDOW_BYTES)
      throw new VmforkError('VMF_PROTOCOL', 'WINDOW returns more than was sent');
    this.#pump();
  }

  override _write(
    chunk: Buffer,
    _encoding: string,
    callback: (error?: Error | null) => void,
  ): void {
    this.#rest = chunk;
    this.#done = callback;
    this.#pump();
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#close();
    callback();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#rest = null;
    this.#done = null;
    this.#close();
    callback(error);
  }

  /** Says that no more comes, once. */
  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stream.send({ type: FrameType.EOF, aux: this.#aux });
  }

  #pump(): void {
    while (this.#rest) {
      const bytes = Math.min(this.#rest.length, this.#credit, MAX_DATA_BYTES);
      if (bytes === 0 && this.#rest.length > 0) return;
      const last = bytes === this.#rest.length;
      const piece = this.#rest.subarray(0, bytes);
      this.#rest = last ? null : this.#rest.subarray(bytes);
      this.#credit -= bytes;
      const done = last ? this.#done : null;
      if (last) this.#done = null;
      // The chunk is the caller's again after `done`, so it waits until the kernel has it.
      this.#stream.send({ type: FrameType.DATA, aux: this.#aux }, piece, done ?? undefined);
    }
  }
}

/** Ends a stream whose machine is gone. With nobody listening for errors it just closes, so that no process dies of it. */
export function failStream(stream: Readable | Writable, error: Error): void {
  if (stream.destroyed) return;
  if (stream.listenerCount('error') > 0) stream.destroy(error);
  else stream.destroy();
}
