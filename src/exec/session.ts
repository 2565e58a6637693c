// One control connection to an agent: frames in and out, pings, quiesce and resume, and the table of open streams.
// Whatever ends the connection rejects everything that waits on it.

import type { Socket } from 'node:net';
import { VmforkError } from '../errors.js';
import { Deferred, throwIfAborted, type WaitOptions, withLimits } from '../waiting.js';
import { ForkPoints } from './fork-point.js';
import {
  encodeFrame,
  encodeHeader,
  type Frame,
  type FrameHeader,
  FrameParser,
  FrameType,
} from './frames.js';
import {
  type Acknowledgement,
  type AgentInfo,
  describeFailure,
  encodeThaw,
  parseFailure,
  parseHello,
  parseResumed,
} from './messages.js';

// Below this a payload is copied behind its header: one write is cheaper than two.
const COPY_BYTES = 4096;
const NO_BYTES = Buffer.alloc(0);

/** Number of the first stream of a connection. */
export const FIRST_STREAM = 1;

/** What a stream's owner is told. */
export interface StreamHandler {
  onFrame(frame: Frame): void;
  /** The connection ended first. */
  onGone(error: VmforkError): void;
}

/** The host's end of one stream. */
export interface OpenStream {
  send(header: FrameHeader, payload?: Uint8Array, done?: (error?: Error | null) => void): void;
  /** Forgets the stream; after the guest's last frame for it. */
  close(): void;
  /** Stops keeping the process alive for this stream. */
  unref(): void;
}

/** What a session's owner is told. */
export interface SessionEvents {
  onClosed(error: VmforkError): void;
  onLog?(level: number, text: string): void;
  /** A process waits at a fork point. */
  onForkPoint?(name: string): void;
}

interface HeldWrite {
  header: FrameHeader;
  payload: Uint8Array;
  done: ((error?: Error | null) => void) | undefined;
}

/** What a session begins with in a clone, whose agent has said all of it in the template. */
export interface SessionPast {
  agent: AgentInfo;
  /** Names of the fork points at which processes waited. */
  forkPoints: readonly string[];
}

/** One control connection. */
export class Session {
  /** The processes that wait to be forked. */
  readonly forkPoints: ForkPoints;
  readonly #socket: Socket;
  readonly #events: SessionEvents;
  readonly #parser = new FrameParser();
  readonly #streams = new Map<number, StreamHandler>();
  readonly #pings = new Map<number, { bytes: Uint8Array; reply: Deferred<void> }>();
  readonly #hello = new Deferred<AgentInfo>();
  #quiesced: { value: number; reply: Deferred<void> } | null = null;
  #resumed: { value: number; reply: Deferred<Acknowledgement> } | null = null;
  #held: HeldWrite[] | null = null;
  #error: VmforkError | null = null;
  #agent: AgentInfo | null;
  #nextStream = FIRST_STREAM;
  #nextValue = 1;
  #pending = 0;

  constructor(socket: Socket, events: SessionEvents, past: SessionPast | null = null) {
    this.#socket = socket;
    this.#events = events;
    this.#agent = past?.agent ?? null;
    this.forkPoints = new ForkPoints(past?.forkPoints);
    if (past) this.#hello.resolve(past.agent);
    socket.unref();
    socket.on('data', (chunk) => this.#receive(chunk));
    socket.on('error', (cause) => this.#closed('control connection failed', cause));
    socket.on('close', () => this.#closed('control connection closed'));
  }

  /** Resolves when the agent has said hello. */
  get hello(): Promise<AgentInfo> {
    return this.#hello.promise;
  }

  /** Open streams. */
  get streamCount(): number {
    return this.#streams.size;
  }

  /** A round trip to the agent. */
  async ping(bytes: Uint8Array = NO_BYTES, limits: WaitOptions = {}): Promise<void> {
    throwIfAborted('ping', limits.signal);
    this.#assertOpen();
    const value = this.#newValue();
    const reply = new Deferred<void>();
    this.#pings.set(value, { bytes, reply });
    this.#retain();
    this.#write({ type: FrameType.PING, value }, bytes);
    // A reply after the caller gave up is still a proper one, so the entry stays until it comes.
    const answered = reply.promise.finally(() => this.#release());
    await withLimits('ping', limits, answered);
  }

  /** Opens a stream with its first frame. */
  openStream(first: FrameHeader, payload: Uint8Array, handler: StreamHandler): OpenStream {
    const { id, stream } = this.#newStream(handler);
    this.#write({ ...first, stream: id }, payload);
    return stream;
  }

  /** A stream whose first frame the agent is given by other means; it gets the number that is next. */
  expectStream(handler: StreamHandler): OpenStream {
    return this.#newStream(handler).stream;
  }

  #newStream(handler: StreamHandler): { id: number; stream: OpenStream } {
    this.#assertOpen();
    const id = this.#nextStream;
    this.#nextStream = id === 0xffff_ffff ? FIRST_STREAM : id + 1;
    if (this.#streams.has(id)) throw new VmforkError('VMF_INTERNAL', `stream ${id} is still open`);
    this.#streams.set(id, handler);
    this.#retain();
    let retained = true;
    const unref = () => {
      if (retained) this.#release();
      retained = false;
    };
    const stream: OpenStream = {
      send: (header, bytes = NO_BYTES, done) => {
        if (this.#streams.get(id) === handler) this.#write({ ...header, stream: id }, bytes, done);
        else done?.(this.#error ?? new VmforkError('VMF_GONE', 'the stream has ended'));
      },
      close: () => {
        if (this.#streams.get(id) === handler) this.#streams.delete(id);
        unref();
      },
      unref,
    };
    return { id, stream };
  }

  /** Waits for a process at a fork point; see `vm.waitForForkPoint()`. */
  async waitForForkPoint(name: string | undefined, limits: WaitOptions): Promise<string> {
    this.#assertOpen();
    this.#retain();
    try {
      return await this.forkPoints.wait(name, limits);
    } finally {
      this.#release();
    }
  }

  /** Brings the agent to rest. Until {@link thaw}, what callers send is kept back. */
  async quiesce(limits: WaitOptions = {}): Promise<void> {
    this.#assertOpen();
    if (this.#held) throw new VmforkError('VMF_STATE', 'the agent is already at rest');
    const reply = new Deferred<void>();
    const value = this.#newValue();
    this.#quiesced = { value, reply };
    this.#write({ type: FrameType.QUIESCE, value }, NO_BYTES);
    this.#held = [];
    this.#retain();
    await withLimits(
      'quiesce',
      limits,
      reply.promise.finally(() => this.#release()),
    );
  }

  /** After {@link quiesce}: the same machine goes on; what was kept back is sent. */
  async thaw(limits: WaitOptions = {}): Promise<void> {
    const value = this.#newValue();
    await this.resume(value, encodeThaw(value), limits);
  }

  /** After {@link quiesce}: sends this `RESUME` and what was kept back; resolves with the answer. */
  resume(value: number, frame: Buffer, limits: WaitOptions = {}): Promise<Acknowledgement> {
    const resumed = this.expectResumed(value, limits);
    if (!this.#error) this.#socket.write(frame);
    const held = this.#held ?? [];
    this.#held = null;
    for (const { header, payload, done } of held) this.#write(header, payload, done);
    return resumed;
  }

  /** Waits for the answer to a `RESUME` that the agent is given by other means. */
  async expectResumed(value: number, limits: WaitOptions = {}): Promise<Acknowledgement> {
    this.#assertOpen();
    const reply = new Deferred<Acknowledgement>();
    this.#resumed = { value, reply };
    this.#retain();
    return withLimits(
      'resume',
      limits,
      reply.promise.finally(() => this.#release()),
    );
  }

  /** Asks the guest to end itself. */
  shutdown(): void {
    if (!this.#error) this.#write({ type: FrameType.SHUTDOWN }, NO_BYTES);
  }

  /** Ends the connection and rejects all that waits. Idempotent. */
  fail(error: VmforkError): void {
    if (this.#error) return;
    this.#error = error;
    this.#socket.destroy();
    this.#hello.reject(error);
    this.#quiesced?.reply.reject(error);
    this.#resumed?.reply.reject(error);
    this.forkPoints.fail(error);
    for (const { reply } of this.#pings.values()) reply.reject(error);
    this.#pings.clear();
    for (const { done } of this.#held?.splice(0) ?? []) done?.(error);
    const handlers = [...this.#streams.values()];
    this.#streams.clear();
    for (const handler of handlers) handler.onGone(error);
  }

  #receive(chunk: Buffer): void {
    if (this.#error) return;
    try {
      this.#parser.push(chunk, (frame) => {
        if (!this.#error) this.#dispatch(frame);
      });
    } catch (error) {
      this.#end(
        VmforkError.is(error) ? error : new VmforkError('VMF_INTERNAL', '', { cause: error }),
      );
    }
  }

  #dispatch(frame: Frame): void {
    if (!this.#agent && frame.type !== FrameType.HELLO) {
      throw new VmforkError('VMF_PROTOCOL', `frame of type ${frame.type} before HELLO`);
    }
    if (frame.stream === 0) {
      this.#dispatchControl(frame);
      return;
    }
    const handler = this.#streams.get(frame.stream);
    if (!handler) throw new VmforkError('VMF_PROTOCOL', `frame for closed stream ${frame.stream}`);
    handler.onFrame(frame);
  }

  #dispatchControl(frame: Frame): void {
    switch (frame.type) {
      case FrameType.HELLO:
        this.#onHello(frame);
        break;
      case FrameType.PONG:
        this.#onPong(frame);
        break;
      case FrameType.QUIESCED:
        this.#onQuiesced(frame);
        break;
      case FrameType.RESUMED:
        this.#onResumed(frame);
        break;
      case FrameType.LOG:
        this.#events.onLog?.(frame.value, frame.payload.toString('utf8'));
        break;
      case FrameType.FORK_POINT:
        this.#onForkPoint(frame);
        break;
      case FrameType.ERROR:
        this.#onError(frame);
        break;
      default:
        throw new VmforkError('VMF_PROTOCOL', `frame of type ${frame.type} on stream 0`);
    }
  }

  #onHello(frame: Frame): void {
    if (this.#agent) throw new VmforkError('VMF_PROTOCOL', 'a second HELLO');
    this.#agent = parseHello(frame);
    this.#hello.resolve(this.#agent);
  }

  #onPong(frame: Frame): void {
    const ping = this.#pings.get(frame.value);
    if (!ping) throw new VmforkError('VMF_PROTOCOL', 'PONG without PING');
    if (!frame.payload.equals(ping.bytes))
      throw new VmforkError('VMF_PROTOCOL', 'PONG differs from PING');
    this.#pings.delete(frame.value);
    ping.reply.resolve();
  }

  #onQuiesced(frame: Frame): void {
    if (this.#quiesced?.value !== frame.value)
      throw new VmforkError('VMF_PROTOCOL', 'unexpected QUIESCED');
    this.#quiesced.reply.resolve();
    this.#quiesced = null;
  }

  #onResumed(frame: Frame): void {
    if (this.#resumed?.value !== frame.value)
      throw new VmforkError('VMF_PROTOCOL', 'unexpected RESUMED');
    this.#resumed.reply.resolve(parseResumed(frame));
    this.#resumed = null;
  }

  #onForkPoint(frame: Frame): void {
    const name = this.forkPoints.update(frame);
    if (name !== null) this.#events.onForkPoint?.(name);
  }

  // The only request on stream 0 that the agent may refuse is RESUME.
  #onError(frame: Frame): void {
    const detail = describeFailure(parseFailure(frame));
    if (!this.#resumed) throw new VmforkError('VMF_PROTOCOL', detail);
    this.#resumed.reply.reject(new VmforkError('VMF_IDENTITY', detail, { errno: frame.value }));
    this.#resumed = null;
  }

  #write(header: FrameHeader, payload: Uint8Array, done?: (error?: Error | null) => void): void {
    if (this.#error) {
      done?.(this.#error);
    } else if (this.#held) {
      this.#held.push({ header, payload, done });
    } else if (payload.length <= COPY_BYTES) {
      this.#socket.write(encodeFrame(header, payload), done);
    } else {
      this.#socket.cork();
      this.#socket.write(encodeHeader(header, payload.length));
      this.#socket.write(payload, done);
      this.#socket.uncork();
    }
  }

  #closed(detail: string, cause?: Error): void {
    this.#end(new VmforkError('VMF_GONE', detail, { cause }));
  }

  #end(error: VmforkError): void {
    if (this.#error) return;
    this.#events.onClosed(error);
    // The owner usually knows a better reason and has failed the session with it by now, or will.
    if (error.code !== 'VMF_GONE') this.fail(error);
  }

  #assertOpen(): void {
    if (this.#error) throw this.#error;
  }

  #newValue(): number {
    const value = this.#nextValue;
    this.#nextValue = value === 0xffff_ffff ? 1 : value + 1;
    return value;
  }

  #retain(): void {
    if (this.#pending++ === 0) this.#socket.ref();
  }

  #release(): void {
    if (--this.#pending === 0) this.#socket.unref();
  }
}
