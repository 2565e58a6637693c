// The wire form of the control protocol (docs/protocol.md, "Frame"): encoding, and an incremental parser of hostile bytes
// that never holds more than one frame.

import { VmforkError } from '../errors.js';

/** Bytes of a frame's header. */
export const HEADER_BYTES = 16;
/** Most bytes of payload in any frame. */
export const MAX_PAYLOAD_BYTES = 1_048_576;
/** Most bytes of payload in a `DATA`, `PING` or `PONG` frame. */
export const MAX_DATA_BYTES = 65_536;
/** Credit that each direction of each stream starts with. */
export const WINDOW_BYTES = 262_144;

/** Frame types by name. */
export const FrameType = {
  HELLO: 1,
  PING: 2,
  PONG: 3,
  ERROR: 4,
  QUIESCE: 5,
  QUIESCED: 6,
  RESUME: 7,
  RESUMED: 8,
  SHUTDOWN: 9,
  LOG: 10,
  EXEC: 16,
  STARTED: 17,
  DATA: 18,
  EOF: 19,
  WINDOW: 20,
  RESIZE: 21,
  SIGNAL: 22,
  EXIT: 23,
  FILE_READ: 32,
  FILE_WRITE: 33,
  FILE_DONE: 34,
  MOUNT_ROOTFS: 40,
  ROOTFS_READY: 41,
  UNMOUNT_ROOTFS: 42,
  ROOTFS_GONE: 43,
  OOM: 44,
  ADOPT_MAIN: 45,
  PREPARE: 46,
  PREPARED: 47,
  DIAL: 48,
  CONNECTED: 49,
  CLOSED: 50,
  FORK_POINT: 51,
  RELEASE: 52,
} as const;

/** Which of a command's byte streams a `DATA`, `EOF` or `WINDOW` frame means. */
export const Aux = { STDIN: 0, STDOUT: 1, STDERR: 2 } as const;

export interface FrameHeader {
  type: number;
  stream?: number;
  aux?: number;
  value?: number;
}

export interface Frame {
  type: number;
  stream: number;
  aux: number;
  value: number;
  payload: Buffer;
}

const KNOWN_TYPES: ReadonlySet<number> = new Set(Object.values(FrameType));
const SMALL_PAYLOAD_TYPES: ReadonlySet<number> = new Set([
  FrameType.PING,
  FrameType.PONG,
  FrameType.DATA,
]);

const EMPTY = Buffer.alloc(0);

/** A frame's header alone, for a payload that is written behind it without being copied. */
export function encodeHeader(header: FrameHeader, payloadBytes: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES);
  writeHeader(bytes, header, payloadBytes);
  return bytes;
}

/** A whole frame in one buffer. */
export function encodeFrame(header: FrameHeader, payload: Uint8Array = EMPTY): Buffer {
  const bytes = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  writeHeader(bytes, header, payload.length);
  bytes.set(payload, HEADER_BYTES);
  return bytes;
}

/** Writes a header to the first bytes of a buffer. */
export function writeHeader(bytes: Buffer, header: FrameHeader, payloadBytes: number): void {
  bytes.writeUInt32LE(payloadBytes, 0);
  bytes.writeUInt32LE(header.stream ?? 0, 4);
  bytes.writeUInt8(header.type, 8);
  bytes.writeUInt8(0, 9);
  bytes.writeUInt16LE(header.aux ?? 0, 10);
  bytes.writeUInt32LE(header.value ?? 0, 12);
}

/** Cuts a byte stream into frames. Throws `VMF_PROTOCOL` on the first byte that breaks the format. */
export class FrameParser {
  readonly #header = Buffer.allocUnsafe(HEADER_BYTES);
  #headerBytes = 0;
  #frame: Frame | null = null;
  #payloadBytes = 0;

  /** Feeds a chunk; calls `onFrame` for each frame it completes. Payloads may be views into the chunk. */
  push(chunk: Buffer, onFrame: (frame: Frame) => void): void {
    let at = 0;
    while (at < chunk.length) {
      at += this.#frame ? this.#takePayload(chunk, at) : this.#takeHeader(chunk, at);
      const frame = this.#frame;
      if (frame && this.#payloadBytes === frame.payload.length) {
        this.#frame = null;
        onFrame(frame);
      }
    }
  }

  #takeHeader(chunk: Buffer, at: number): number {
    const taken = Math.min(HEADER_BYTES - this.#headerBytes, chunk.length - at);
    chunk.copy(this.#header, this.#headerBytes, at, at + taken);
    this.#headerBytes += taken;
    if (this.#headerBytes < HEADER_BYTES) return taken;
    this.#headerBytes = 0;
    const length = checkedLength(this.#header);
    const start = at + taken;
    const whole = chunk.length - start >= length;
    this.#frame = {
      type: this.#header.readUInt8(8),
      stream: this.#header.readUInt32LE(4),
      aux: this.#header.readUInt16LE(10),
      value: this.#header.readUInt32LE(12),
      payload: whole ? chunk.subarray(start, start + length) : Buffer.allocUnsafe(length),
    };
    this.#payloadBytes = whole ? length : 0;
    return taken + this.#payloadBytes;
  }

  #takePayload(chunk: Buffer, at: number): number {
    const { payload } = this.#frame as Frame;
    const taken = Math.min(payload.length - this.#payloadBytes, chunk.length - at);
    chunk.copy(payload, this.#payloadBytes, at, at + taken);
    this.#payloadBytes += taken;
    return taken;
  }
}

function checkedLength(header: Buffer): number {
  const length = header.readUInt32LE(0);
  const type = header.readUInt8(8);
  const flags = header.readUInt8(9);
  if (!KNOWN_TYPES.has(type))
    throw new VmforkError('VMF_PROTOCOL', `frame type ${type} is unknown`);
  if (flags !== 0) throw new VmforkError('VMF_PROTOCOL', `frame flags are ${flags}, must be 0`);
  const most = SMALL_PAYLOAD_TYPES.has(type) ? MAX_DATA_BYTES : MAX_PAYLOAD_BYTES;
  if (length > most) {
    throw new VmforkError(
      'VMF_PROTOCOL',
      `frame of type ${type} has ${length} bytes, at most ${most}`,
    );
  }
  return length;
}
