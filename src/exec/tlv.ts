// Tag-length-value lists, the structured payloads of the control protocol (docs/protocol.md, "TLV tags").

import { VmforkError } from '../errors.js';

/** Bytes of an item's header. */
export const TLV_HEADER_BYTES = 8;

/** Tags by name. */
export const Tag = {
  GENERATION_MIN: 1,
  BUILD: 2,
  BOOT_NS: 3,
  KERNEL: 4,
  CPUS: 5,
  BOOT_NONCE: 6,
  GENERATION_ID: 10,
  ENTROPY: 11,
  REALTIME_NS: 12,
  HOSTNAME: 13,
  MACHINE_ID: 14,
  CID: 15,
  BOOT_ID: 16,
  BOOTTIME_NS: 17,
  STAGE: 30,
  TEXT: 31,
  ARG: 40,
  ENV: 41,
  CWD: 42,
  UID: 43,
  GID: 44,
  PTY_SIZE: 45,
  MAX_RSS_KIB: 50,
  PATH: 60,
  OFFSET: 61,
  LIMIT: 62,
  MODE: 63,
  SIZE: 64,
  DEVICE: 70,
  FS_TYPE: 71,
  WRITABLE: 72,
  SCRATCH: 73,
  UPPER_BYTES: 74,
  HOSTS_EXTRA: 75,
  RESOLV_CONF: 76,
  CONTAINER: 80,
  USER: 81,
  CAPABILITIES: 82,
  RLIMIT: 83,
  UMASK: 84,
  OOM_SCORE_ADJ: 85,
  TMPFS: 86,
  VOLUME: 87,
  MEMORY_MAX: 88,
  PIDS_MAX: 89,
  CPU_WEIGHT: 90,
  OOM_KILLS: 91,
  FORK_POINT: 100,
  PAYLOAD: 101,
  PORT: 102,
  HOST: 103,
} as const;

/** One item; a number is written as u32, a bigint as u64, a string as UTF-8. */
export type Tlv = readonly [tag: number, value: Uint8Array | string | number | bigint];

/** Encodes a list of items in the order given, behind `offsetBytes` bytes that are the caller's to fill. */
export function encodeTlvs(items: readonly Tlv[], offsetBytes = 0): Buffer {
  let size = offsetBytes;
  for (const [, value] of items) size += TLV_HEADER_BYTES + sizeOf(value);
  const list = Buffer.allocUnsafe(size);
  let at = offsetBytes;
  for (const [tag, value] of items) {
    const length = put(list, at + TLV_HEADER_BYTES, value);
    list.writeUInt16LE(tag, at);
    list.writeUInt16LE(0, at + 2);
    list.writeUInt32LE(length, at + 4);
    at += TLV_HEADER_BYTES + length;
  }
  return list;
}

function sizeOf(value: Tlv[1]): number {
  if (typeof value === 'string') return Buffer.byteLength(value);
  if (typeof value === 'object') return value.length;
  return typeof value === 'bigint' ? 8 : 4;
}

/** Returns how many bytes it wrote. */
function put(list: Buffer, at: number, value: Tlv[1]): number {
  if (typeof value === 'string') return list.write(value, at);
  if (typeof value === 'bigint') return list.writeBigUInt64LE(value, at) - at;
  if (typeof value === 'number') return list.writeUInt32LE(value, at) - at;
  list.set(value, at);
  return value.length;
}

/** A decoded list. Unknown tags are kept and ignored; of a repeated tag the first counts. */
export class TlvList {
  readonly #items = new Map<number, Buffer>();

  /** Throws `VMF_PROTOCOL` when the payload is not a well-formed list. */
  constructor(payload: Buffer) {
    let at = 0;
    while (at < payload.length) {
      if (payload.length - at < TLV_HEADER_BYTES) throw broken('ends inside an item’s header');
      const tag = payload.readUInt16LE(at);
      const length = payload.readUInt32LE(at + 4);
      if (payload.readUInt16LE(at + 2) !== 0) throw broken(`tag ${tag} has a non-zero pad`);
      at += TLV_HEADER_BYTES;
      if (length > payload.length - at) throw broken(`tag ${tag} is longer than its frame`);
      if (!this.#items.has(tag)) this.#items.set(tag, payload.subarray(at, at + length));
      at += length;
    }
  }

  bytes(tag: number, length?: number): Buffer | undefined {
    const item = this.#items.get(tag);
    if (item && length !== undefined && item.length !== length) {
      throw broken(`tag ${tag} has ${item.length} bytes, must have ${length}`);
    }
    return item;
  }

  u32(tag: number): number | undefined {
    return this.bytes(tag, 4)?.readUInt32LE();
  }

  u64(tag: number): bigint | undefined {
    return this.bytes(tag, 8)?.readBigUInt64LE();
  }

  text(tag: number): string | undefined {
    return this.bytes(tag)?.toString('utf8');
  }
}

function broken(detail: string): VmforkError {
  return new VmforkError('VMF_PROTOCOL', `list ${detail}`);
}
