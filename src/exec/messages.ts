// The structured messages of the control protocol: what the library sends and what it understands of the agent's answers.

import { type ByteString, variable } from '../byte-string.js';
import { errnoName, VmforkError } from '../errors.js';
import { encodeFrame, type Frame, FrameType, HEADER_BYTES, writeHeader } from './frames.js';
import { encodeTlvs, Tag, TLV_HEADER_BYTES, type Tlv, TlvList } from './tlv.js';

const U64_BYTES = 8;
const NS_PER_MS = 1_000_000;

/** Protocol generations this library speaks. */
export const GENERATION = { min: 1, max: 1 } as const;

/** What an agent says about itself in `HELLO`. */
export interface AgentInfo {
  /** Protocol generation both ends use. */
  generation: number;
  /** Identity of the agent's build. */
  build: string;
  /** Guest kernel release. */
  kernel: string;
  cpus: number;
  /** Guest uptime when the agent said hello, nanoseconds. */
  bootNs: number;
  /** Drawn once per boot, hex: equal in all descendants of one boot. */
  bootNonce: string;
}

/** Everything that makes a machine itself; one per boot and per fork. */
export interface IdentityBytes {
  generationId: Buffer;
  entropy: Buffer;
  realtimeNs: bigint;
  hostname: string;
  machineId: string;
  cid: number;
  bootId: string;
}

/** What the agent says it applied. */
export interface Acknowledgement {
  generationId: Buffer | undefined;
  cid: number | undefined;
  realtimeNs: bigint | undefined;
  boottimeNs: bigint | undefined;
}

/** A command as the agent is told to run it. */
export interface ExecRequest {
  argv: readonly ByteString[];
  env: Readonly<Record<string, ByteString>>;
  cwd?: ByteString | undefined;
  uid?: number | undefined;
  gid?: number | undefined;
  pty?: { columns: number; rows: number } | undefined;
}

/** Reads a `HELLO`; throws `VMF_AGENT_MISMATCH` when no generation is shared. */
export function parseHello(frame: Frame): AgentInfo {
  const list = new TlvList(frame.payload);
  const oldest = list.u32(Tag.GENERATION_MIN) ?? frame.value;
  const generation = Math.min(frame.value, GENERATION.max);
  if (generation < oldest || generation < GENERATION.min) {
    throw new VmforkError(
      'VMF_AGENT_MISMATCH',
      `the agent speaks ${oldest} to ${frame.value}, this library ${GENERATION.min} to ${GENERATION.max}`,
    );
  }
  return {
    generation,
    build: list.text(Tag.BUILD) ?? '',
    kernel: list.text(Tag.KERNEL) ?? '',
    cpus: list.u32(Tag.CPUS) ?? 1,
    bootNs: Number(list.u64(Tag.BOOT_NS) ?? 0n),
    bootNonce: list.bytes(Tag.BOOT_NONCE, 16)?.toString('hex') ?? '',
  };
}

/** What a `RESUME` is to its machine: the first one of a clone, or one more, after which its streams stay. */
export const ResumeKind = { NEW_MACHINE: 0, THAW: 1, SAME_MACHINE: 2 } as const;

/** Encodes the `RESUME` that gives a machine its identity. */
export function encodeResume(
  value: number,
  identity: IdentityBytes,
  kind: number = ResumeKind.NEW_MACHINE,
): Buffer {
  const items: Tlv[] = [
    [Tag.GENERATION_ID, identity.generationId],
    [Tag.ENTROPY, identity.entropy],
    [Tag.REALTIME_NS, identity.realtimeNs],
    [Tag.HOSTNAME, identity.hostname],
    [Tag.MACHINE_ID, identity.machineId],
    [Tag.CID, identity.cid],
    [Tag.BOOT_ID, identity.bootId],
  ];
  const frame = encodeTlvs(items, HEADER_BYTES);
  writeHeader(frame, { type: FrameType.RESUME, aux: kind, value }, frame.length - HEADER_BYTES);
  return frame;
}

/** Where a `RESUME` that gives a machine its identity says the time. */
export function resumeTime(frame: Buffer): DataView {
  let at = HEADER_BYTES;
  // The generation id and the entropy lie before it.
  for (let items = 0; items < 2; items++) at += TLV_HEADER_BYTES + frame.readUInt32LE(at + 4);
  return new DataView(frame.buffer, frame.byteOffset + at + TLV_HEADER_BYTES, U64_BYTES);
}

/** Writes a wall-clock time in nanoseconds. Without a BigInt, which takes a fork that is waited for several microseconds. */
export function stampTime(time: DataView, realtimeMs: number): void {
  const low = Math.imul(realtimeMs, NS_PER_MS) >>> 0;
  time.setUint32(0, low, true);
  // What the product lacks in precision is far less than one of the upper half.
  time.setUint32(4, Math.round((realtimeMs * NS_PER_MS - low) / 2 ** 32), true);
}

/** Encodes the `RESUME` after which the same machine goes on. */
export function encodeThaw(value: number): Buffer {
  return encodeFrame({ type: FrameType.RESUME, aux: ResumeKind.THAW, value });
}

export function parseResumed(frame: Frame): Acknowledgement {
  const list = new TlvList(frame.payload);
  return {
    generationId: list.bytes(Tag.GENERATION_ID, 16),
    cid: list.u32(Tag.CID),
    realtimeNs: list.u64(Tag.REALTIME_NS),
    boottimeNs: list.u64(Tag.BOOTTIME_NS),
  };
}

export function encodeExec(request: ExecRequest, more: readonly Tlv[] = []): Buffer {
  const items: Tlv[] = request.argv.map((argument) => [Tag.ARG, argument]);
  for (const [name, value] of Object.entries(request.env))
    items.push([Tag.ENV, variable(name, value)]);
  if (request.cwd !== undefined) items.push([Tag.CWD, request.cwd]);
  if (request.uid !== undefined) items.push([Tag.UID, request.uid]);
  if (request.gid !== undefined) items.push([Tag.GID, request.gid]);
  if (request.pty) items.push([Tag.PTY_SIZE, terminalSize(request.pty)]);
  return encodeTlvs([...items, ...more]);
}

/** Rows and columns in one number, as `RESIZE` and `PTY_SIZE` carry them. */
export function terminalSize({ columns, rows }: { columns: number; rows: number }): number {
  return ((rows << 16) | columns) >>> 0;
}

/** What an `ERROR` frame says. */
export interface AgentFailure {
  errno: number;
  stage: string;
  text: string;
}

export function parseFailure(frame: Frame): AgentFailure {
  const list = new TlvList(frame.payload);
  return {
    errno: frame.value,
    stage: list.text(Tag.STAGE) ?? '',
    text: list.text(Tag.TEXT) ?? '',
  };
}

/** One sentence about a failure, for messages. */
export function describeFailure({ errno, stage, text }: AgentFailure): string {
  return [stage, errnoName(errno), text].filter(Boolean).join(': ');
}
