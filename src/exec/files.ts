// Reads and writes files of a guest in chunks under credit.

import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type ByteString, textOf } from '../byte-string.js';
import { VmforkError } from '../errors.js';
import {
  checkGuestPath,
  checkOptions,
  READ_FILE_OPTIONS,
  type ReadFileOptions,
  WRITE_FILE_OPTIONS,
  type WriteFileOptions,
} from '../options.js';
import { Deferred, throwIfAborted, withLimits } from '../waiting.js';
import { GuestReadable, GuestWritable } from './byte-streams.js';
import { Aux, type Frame, FrameType } from './frames.js';
import { describeFailure, parseFailure } from './messages.js';
import type { OpenStream, Session } from './session.js';
import { encodeTlvs, Tag, type Tlv } from './tlv.js';

const SIGKILL = 9;
const APPEND = 1;
const MAKE_PARENTS = 2;
const EXCLUSIVE = 4;

/** Reads a file; see `vm.readFile()`. */
export async function readGuestFile(
  session: Session,
  path: ByteString,
  options: ReadFileOptions = {},
): Promise<Buffer> {
  checkGuestPath('readFile', path);
  checkOptions('readFile', READ_FILE_OPTIONS, options);
  throwIfAborted('readFile', options.signal);
  const items: Tlv[] = [[Tag.PATH, path]];
  if (options.offsetBytes !== undefined) items.push([Tag.OFFSET, BigInt(options.offsetBytes)]);
  if (options.limitBytes !== undefined) items.push([Tag.LIMIT, BigInt(options.limitBytes)]);
  const chunks: Buffer[] = [];
  const transfer = new Transfer(session, path, { type: FrameType.FILE_READ }, items);
  const source = transfer.source;
  source.on('data', (chunk: Buffer) => chunks.push(chunk));
  source.on('error', () => {}); // The transfer reports it.
  const ended = new Promise<void>((resolve) => source.once('close', resolve));
  await withLimits('readFile', options, transfer.done, () => transfer.cancel());
  await ended;
  return Buffer.concat(chunks);
}

/** Writes a file; see `vm.writeFile()`. */
export async function writeGuestFile(
  session: Session,
  path: ByteString,
  content: string | Uint8Array | Readable | AsyncIterable<Uint8Array | string>,
  options: WriteFileOptions = {},
): Promise<void> {
  checkGuestPath('writeFile', path);
  checkOptions('writeFile', WRITE_FILE_OPTIONS, options);
  throwIfAborted('writeFile', options.signal);
  const aux =
    (options.append ? APPEND : 0) |
    (options.makeParents ? MAKE_PARENTS : 0) |
    (options.exclusive ? EXCLUSIVE : 0);
  const items: Tlv[] = [[Tag.PATH, path]];
  if (options.mode !== undefined) items.push([Tag.MODE, options.mode]);
  const transfer = new Transfer(session, path, { type: FrameType.FILE_WRITE, aux }, items);
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  const source = bytes instanceof Uint8Array ? Readable.from([bytes]) : bytes;
  pipeline(source, transfer.sink).catch((error) => transfer.fail(error));
  await withLimits('writeFile', options, transfer.done, () => transfer.cancel());
}

/** One file on its way. */
class Transfer {
  readonly source: GuestReadable;
  readonly sink: GuestWritable;
  readonly #path: ByteString;
  readonly #stream: OpenStream;
  readonly #done = new Deferred<void>();
  #cancelled = false;

  constructor(
    session: Session,
    path: ByteString,
    first: { type: number; aux?: number },
    items: Tlv[],
  ) {
    this.#path = path;
    this.#stream = session.openStream(first, encodeTlvs(items), {
      onFrame: (frame) => this.#onFrame(frame),
      onGone: (error) => this.#end(error),
    });
    this.source = new GuestReadable(this.#stream, Aux.STDOUT);
    this.sink = new GuestWritable(this.#stream, Aux.STDIN);
  }

  get done(): Promise<void> {
    return this.#done.promise;
  }

  /** Has the agent give the transfer up; its answer to that closes the stream. */
  cancel(): void {
    if (this.#cancelled) return;
    this.#cancelled = true;
    this.#stream.send({ type: FrameType.SIGNAL, value: SIGKILL });
    this.#stream.unref();
    this.source.destroy();
  }

  /** The host's side failed. */
  fail(error: unknown): void {
    this.cancel();
    this.#done.reject(error);
  }

  #onFrame(frame: Frame): void {
    switch (frame.type) {
      case FrameType.DATA:
        this.source.receive(frame.payload);
        break;
      case FrameType.WINDOW:
        this.sink.addCredit(frame.value);
        break;
      case FrameType.FILE_DONE:
        this.source.finish();
        this.#end();
        break;
      case FrameType.ERROR:
        this.#end(this.#failure(frame));
        break;
      default:
        throw new VmforkError('VMF_PROTOCOL', `frame of type ${frame.type} on a file transfer`);
    }
  }

  #failure(frame: Frame): VmforkError {
    const failure = parseFailure(frame);
    return new VmforkError('VMF_GUEST_FILE', `${textOf(this.#path)}: ${describeFailure(failure)}`, {
      operation: failure.stage,
      errno: failure.errno,
    });
  }

  #end(error?: VmforkError): void {
    this.#stream.close();
    if (error) this.#done.reject(error);
    else this.#done.resolve();
    if (error) this.source.destroy();
    this.sink.destroy();
  }
}
