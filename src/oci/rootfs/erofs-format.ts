// The on-disk format of EROFS, as far as this writer uses it: no compression, extended inodes, one block size.
// Linux: fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst.

import { crc32c } from './crc32c.js';
import { IMAGE_BLOCK_BYTES } from './image-file.js';

export const SUPERBLOCK_OFFSET = 1024;
export const INODE_BYTES = 64;
/** Inodes are numbered by their place in the metadata area, in units of so many bytes. */
export const INODE_SLOT_BYTES = 32;
export const DIRENT_BYTES = 12;

const MAGIC = 0xe0f5e1e2;
const BLOCK_BITS = 12;
const COMPAT_CHECKSUM = 1;
const COMPAT_MTIME = 2;
const INCOMPAT_CHUNKED_FILE = 4;

/** How an inode's content is stored: EROFS_INODE_FLAT_PLAIN, _FLAT_INLINE and _CHUNK_BASED. */
export const LAYOUT = { plain: 0, inline: 2, chunked: 4 } as const;

/** File types: the bits of `st_mode`, and the type in directory entries (include/linux/fs_types.h). */
export const FILE_TYPES = {
  file: { modeBits: 0o100000, direntType: 1 },
  directory: { modeBits: 0o040000, direntType: 2 },
  char: { modeBits: 0o020000, direntType: 3 },
  block: { modeBits: 0o060000, direntType: 4 },
  fifo: { modeBits: 0o010000, direntType: 5 },
  symlink: { modeBits: 0o120000, direntType: 7 },
} as const;

export interface Superblock {
  rootNid: number;
  inodes: number;
  blocks: number;
  metadataBlock: number;
  hasChunks: boolean;
}

/** The image's first block. Its checksum covers the block from the superblock on. */
export function encodeSuperblock(superblock: Superblock): Buffer {
  const block = Buffer.alloc(IMAGE_BLOCK_BYTES);
  const at = SUPERBLOCK_OFFSET;
  block.writeUInt32LE(MAGIC, at);
  block.writeUInt32LE(COMPAT_CHECKSUM | COMPAT_MTIME, at + 8);
  block.writeUInt8(BLOCK_BITS, at + 12);
  block.writeUInt16LE(superblock.rootNid, at + 14);
  block.writeBigUInt64LE(BigInt(superblock.inodes), at + 16);
  block.writeUInt32LE(superblock.blocks, at + 36);
  block.writeUInt32LE(superblock.metadataBlock, at + 40);
  block.writeUInt32LE(superblock.hasChunks ? INCOMPAT_CHUNKED_FILE : 0, at + 80);
  block.writeUInt32LE(crc32c(block.subarray(at)), at + 4);
  return block;
}

export interface InodeFields {
  layout: number;
  xattrUnits: number;
  /** Type and permission bits. */
  mode: number;
  sizeBytes: number;
  /** First block, device number, or format of the chunk map. */
  union: number;
  number: number;
  uid: number;
  gid: number;
  seconds: number;
  nanoseconds: number;
  links: number;
}

/** Writes an extended inode; `target` is zero there. */
export function writeInode(target: Buffer, at: number, inode: InodeFields): void {
  target.writeUInt16LE(1 | (inode.layout << 1), at);
  target.writeUInt16LE(inode.xattrUnits, at + 2);
  target.writeUInt16LE(inode.mode, at + 4);
  writeUInt64(target, inode.sizeBytes, at + 8);
  target.writeUInt32LE(inode.union >>> 0, at + 16);
  target.writeUInt32LE(inode.number, at + 20);
  target.writeUInt32LE(inode.uid, at + 24);
  target.writeUInt32LE(inode.gid, at + 28);
  target.writeBigInt64LE(BigInt(inode.seconds), at + 32);
  target.writeUInt32LE(inode.nanoseconds, at + 40);
  target.writeUInt32LE(inode.links, at + 44);
}

/** A device number as Linux stores it: new_encode_dev(), include/linux/kdev_t.h. */
export const encodeDevice = (major: number, minor: number): number =>
  ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;

export interface Dirent {
  name: string;
  nid: number;
  type: number;
}

/**
 * Where a directory of these sorted names splits into blocks: the index behind the last name of each, and the bytes used
 * of the last block.
 */
export function splitDirents(names: readonly string[]): { ends: number[]; lastBytes: number } {
  const ends: number[] = [];
  let used = 0;
  for (let index = 0; index < names.length; index++) {
    const bytes = DIRENT_BYTES + (names[index] as string).length;
    if (used + bytes > IMAGE_BLOCK_BYTES) {
      ends.push(index);
      used = 0;
    }
    used += bytes;
  }
  ends.push(names.length);
  return { ends, lastBytes: used };
}

/** Writes the entries of one directory block: fixed parts first, then the names. `target` is zero there. */
export function writeDirents(target: Buffer, offset: number, dirents: readonly Dirent[]): void {
  let at = offset;
  let nameOffset = dirents.length * DIRENT_BYTES;
  for (const { name, nid, type } of dirents) {
    writeUInt64(target, nid, at);
    target.writeUInt16LE(nameOffset, at + 8);
    target.writeUInt8(type, at + 10);
    target.write(name, offset + nameOffset, 'latin1');
    at += DIRENT_BYTES;
    nameOffset += name.length;
  }
}

function writeUInt64(target: Buffer, value: number, at: number): void {
  target.writeUInt32LE(value % 2 ** 32, at);
  target.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}
