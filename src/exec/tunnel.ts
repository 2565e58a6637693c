// A socket of the guest as a Duplex: a stream of the control connection joined to it by the agent (docs/protocol.md,
// "Tunnels and fork points").

import { constants } from 'node:os';
import { Duplex } from 'node:stream';
import { VmforkError } from '../errors.js';
import { Deferred } from '../waiting.js';
import { failStream } from './byte-streams.js';
import { IncomingCredit, OutgoingCredit } from './credit.js';
import { Aux, type Frame, FrameType, MAX_DATA_BYTES, WINDOW_BYTES } from './frames.js';
import { type AgentFailure, describeFailure, parseFailure } from './messages.js';
import type { OpenStream, StreamHandler } from './session.js';

const SIGKILL = 9;

/** What a tunnel leads to. */
export interface TunnelTarget {
  /** For messages, e.g. `tcp port 80`. */
  readonly name: string;
  /** What a refusal means. */
  readonly refused: 'VMF_CONNECTION_REFUSED' | 'VMF_FORK_POINT';
}

/**
 * A byte stream to a socket of the guest. Each way ends by itself: `end()` tells the guest that no more comes, and what it
 * still sends can be read. `destroy()` resets the connection.
 */
export class Tunnel extends Duplex {
  readonly #target: TunnelTarget;
  readonly #stream: OpenStream;
  readonly #incoming: IncomingCredit;
  readonly #outgoing: OutgoingCredit;
  readonly #opened = new Deferred<this>();
  #closed = false;

  /** @internal `open` starts the stream; use `vm.connectTcp()`, `vm.connectUnix()` or a fork point. */
  constructor(target: TunnelTarget, open: (handler: StreamHandler) => OpenStream) {
    super({
      readableHighWaterMark: WINDOW_BYTES,
      writableHighWaterMark: MAX_DATA_BYTES,
      allowHalfOpen: true,
    });
    this.#target = target;
    this.#stream = open({
      onFrame: (frame) => this.#onFrame(frame),
      onGone: (error) => this.#fail(error),
    });
    this.#incoming = new IncomingCredit(this.#stream, Aux.STDOUT);
    this.#outgoing = new OutgoingCredit(this.#stream, Aux.STDIN);
  }

  /** @internal Resolves with this tunnel when the guest's end is connected; rejects with what was refused. */
  get opened(): Promise<this> {
    return this.#opened.promise;
  }

  /** Stops keeping the process alive. */
  unref(): this {
    this.#stream.unref();
    return this;
  }

  override _read(): void {}

  override read(size?: number): ReturnType<Duplex['read']> {
    const chunk: unknown = super.read(size);
    if (!this.destroyed) this.#incoming.settle(this.readableLength);
    return chunk;
  }

  override _write(
    chunk: Buffer,
    _encoding: string,
    callback: (error?: Error | null) => void,
  ): void {
    this.#outgoing.write(chunk, callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#outgoing.end();
    callback();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#outgoing.drop();
    // A tunnel whose ways have both ended may still have bytes on their way: it closes by itself.
    const complete = this.#incoming.ended && this.#outgoing.ended;
    if (!this.#closed && !complete) {
      this.#stream.send({ type: FrameType.SIGNAL, value: SIGKILL });
    }
    this.#stream.unref();
    callback(error);
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.CONNECTED:
        this.#opened.resolve(this);
        break;
      case FrameType.DATA:
        this.#receive(frame);
        break;
      case FrameType.EOF:
        this.#incoming.end();
        if (!this.destroyed) this.push(null);
        break;
      case FrameType.WINDOW:
        this.#outgoing.add(frame.value);
        break;
      case FrameType.CLOSED:
        this.#onClosed(frame.value);
        break;
      case FrameType.ERROR:
        this.#onRefused(parseFailure(frame));
        break;
      default:
        throw new VmforkError('VMF_PROTOCOL', `frame of type ${frame.type} on a tunnel`);
    }
  }

  #receive(frame: Frame): void {
    this.#incoming.spend(frame.payload.length);
    if (frame.payload.length > 0 && !this.destroyed) this.push(frame.payload);
  }

  // The guest's last frame. A peer that closed before it read everything is no error for who reads what it sent: whoever
  // writes to it from now on learns of it.
  #onClosed(errno: number): void {
    this.#close();
    if (errno === 0) return;
    const detail = this.#describe({ errno, stage: '', text: '' });
    const error = new VmforkError('VMF_CONNECTION_LOST', detail, { errno });
    if (errno === constants.errno.EPIPE && this.#incoming.ended) this.#outgoing.fail(error);
    else this.#fail(error);
  }

  #onRefused(failure: AgentFailure): void {
    this.#close();
    const context = { operation: failure.stage, errno: failure.errno };
    this.#fail(new VmforkError(this.#target.refused, this.#describe(failure), context));
  }

  #describe(failure: AgentFailure): string {
    return `${this.#target.name}: ${describeFailure(failure)}`;
  }

  #close(): void {
    this.#closed = true;
    this.#stream.close();
  }

  #fail(error: VmforkError): void {
    this.#closed = true;
    this.#opened.reject(error);
    failStream(this, error);
  }
}
