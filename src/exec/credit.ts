// The credit of one stream in each direction (docs/protocol.md, "Credit"), without the Node stream around it.

import { VmforkError } from '../errors.js';
import { FrameType, MAX_DATA_BYTES, WINDOW_BYTES } from './frames.js';
import type { OpenStream } from './session.js';

// Half a window: rarely enough to cost a slow guest few packets, often enough that the sender never runs dry.
const CREDIT_STEP_BYTES = WINDOW_BYTES / 2;

/** Counts what the guest sends and gives it credit again for what its reader has taken. */
export class IncomingCredit {
  readonly #stream: OpenStream;
  readonly #aux: number;
  #credit = WINDOW_BYTES;
  #received = 0;
  #returned = 0;
  #ended = false;

  constructor(stream: OpenStream, aux: number) {
    this.#stream = stream;
    this.#aux = aux;
  }

  /** Bytes received in all. */
  get received(): number {
    return this.#received;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** A `DATA` frame has come; throws `VMF_PROTOCOL` when it may not. */
  spend(bytes: number): void {
    if (this.#ended) throw new VmforkError('VMF_PROTOCOL', 'DATA after EOF');
    if (bytes > this.#credit) throw new VmforkError('VMF_PROTOCOL', 'DATA without credit');
    this.#credit -= bytes;
    this.#received += bytes;
  }

  /** The guest sends no more. */
  end(): void {
    this.#ended = true;
  }

  /** Returns credit for all bytes but those still `held` for the reader, once that is worth a frame. */
  settle(held: number): void {
    if (this.#ended) return;
    const owed = this.#received - held - this.#returned;
    if (owed < CREDIT_STEP_BYTES) return;
    this.#returned += owed;
    this.#credit += owed;
    this.#stream.send({ type: FrameType.WINDOW, aux: this.#aux, value: owed });
  }
}

/** Sends one chunk at a time, as the guest's credit allows. */
export class OutgoingCredit {
  readonly #stream: OpenStream;
  readonly #aux: number;
  #credit = WINDOW_BYTES;
  #rest: Buffer | null = null;
  #done: ((error?: Error | null) => void) | null = null;
  #ended = false;

  constructor(stream: OpenStream, aux: number) {
    this.#stream = stream;
    this.#aux = aux;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** A `WINDOW` frame has come; throws `VMF_PROTOCOL` when it gives back more than was sent. */
  add(bytes: number): void {
    this.#credit += bytes;
    if (this.#credit > WINDOW_BYTES)
      throw new VmforkError('VMF_PROTOCOL', 'WINDOW returns more than was sent');
    this.#pump();
  }

  /** Sends a chunk; `done` is called when the kernel has all of it. */
  write(chunk: Buffer, done: (error?: Error | null) => void): void {
    this.#rest = chunk;
    this.#done = done;
    this.#pump();
  }

  /** The guest takes no more: a chunk that waits for credit fails. */
  fail(error: VmforkError): void {
    const done = this.#done;
    this.drop();
    done?.(error);
  }

  /** Forgets what has not been sent. */
  drop(): void {
    this.#rest = null;
    this.#done = null;
  }

  /** Says that no more comes, once. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
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
