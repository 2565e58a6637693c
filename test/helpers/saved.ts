// Saved snapshots to be tampered with: copies that share their memory file with the original, and changes to a state that
// the checksums and digests follow.

import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

/** Bytes before the sections of a state, and before what a manifest's checksum covers. */
export const FILE_HEADER_BYTES = 16;
/** Bytes before the payload of a section. */
export const SECTION_HEADER_BYTES = 16;
const CRC_OFFSET = 12;
/** The manifest's digest of the state lies behind its authentication: a flag and a tag. */
const STATE_DIGEST_OFFSET = FILE_HEADER_BYTES + 4 + 32;
const METADATA_TAG = 8;

/** A copy in which all but the memory may be changed. */
export function copySaved(from: string, to: string): string {
  mkdirSync(to);
  for (const name of readdirSync(from)) {
    const copy = name === 'memory' ? linkSync : copyFileSync;
    copy(join(from, name), join(to, name));
  }
  return to;
}

/** CRC-32C, bit by bit. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f6_3b78 : 0);
  }
  return (crc ^ 0xffff_ffff) >>> 0;
}

export interface Section {
  offset: number;
  tag: number;
  length: number;
}

/** The sections of a state. */
export function sectionsOf(state: Buffer): Section[] {
  const found = [];
  for (let offset = FILE_HEADER_BYTES; offset < state.length; ) {
    const length = Number(state.readBigUInt64LE(offset + 8));
    found.push({ offset, tag: state.readUInt32LE(offset), length });
    offset += SECTION_HEADER_BYTES + length;
  }
  return found;
}

/** Writes a state and has the manifest's digest, and its checksum, follow. */
export function replaceState(directory: string, state: Uint8Array): void {
  writeFileSync(join(directory, 'state'), state);
  const path = join(directory, 'manifest');
  if (!existsSync(path)) return;
  const manifest = readFileSync(path);
  createHash('sha256').update(state).digest().copy(manifest, STATE_DIGEST_OFFSET);
  manifest.writeBigUInt64LE(BigInt(state.length), STATE_DIGEST_OFFSET + 32);
  manifest.writeUInt32LE(crc32c(manifest.subarray(FILE_HEADER_BYTES)), CRC_OFFSET);
  writeFileSync(path, manifest);
}

/** Changes the metadata of a saved snapshot, as somebody would who knows the format. */
export function editMetadata(directory: string, edit: (metadata: SavedMetadata) => void): void {
  const state = readFileSync(join(directory, 'state'));
  const section = sectionsOf(state).find(({ tag }) => tag === METADATA_TAG);
  if (!section) throw new Error('no metadata');
  const start = section.offset + SECTION_HEADER_BYTES;
  const metadata = JSON.parse(state.toString('utf8', start + 4, start + section.length));
  edit(metadata);
  const text = Buffer.from(JSON.stringify(metadata));
  const payload = Buffer.alloc(4 + text.length);
  payload.writeUInt32LE(text.length);
  text.copy(payload, 4);
  const header = Buffer.alloc(SECTION_HEADER_BYTES);
  header.writeUInt32LE(METADATA_TAG);
  header.writeUInt32LE(crc32c(payload), 4);
  header.writeBigUInt64LE(BigInt(payload.length), 8);
  const after = state.subarray(start + section.length);
  const edited = Buffer.concat([state.subarray(0, section.offset), header, payload, after]);
  edited.writeUInt32LE(crc32c(edited.subarray(FILE_HEADER_BYTES)), CRC_OFFSET);
  replaceState(directory, edited);
}

interface SavedMetadata {
  format: number;
  agent: { generation: number };
}

/** Flips one bit of a file, twice the same is none. */
export function flip(path: string, offset: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, offset);
  writeSync(fd, Buffer.of(byte.readUInt8() ^ 1), 0, 1, offset);
  closeSync(fd);
}
