// Writes what is laid out behind the files' contents: directories, long link texts, inodes, and at last the superblock.

import type { Breath } from './breath.js';
import {
  type Dirent,
  encodeDevice,
  encodeSuperblock,
  FILE_TYPES,
  INODE_BYTES,
  LAYOUT,
  writeDirents,
  writeInode,
} from './erofs-format.js';
import { IMAGE_BLOCK_BYTES, type ImageFile } from './image-file.js';
import { type ImageLayout, nidOf, type PlacedInode } from './layout.js';
import type { Directory } from './tree.js';
import { writeXattrs, xattrUnits } from './xattrs.js';

const PERMISSION_BITS = 0o7777;

/** Writes everything but the superblock, which makes the image one. Returns the metadata area's first block. */
export async function writeMetadata(
  image: ImageFile,
  layout: ImageLayout,
  breath: Breath,
): Promise<number> {
  const firstBlock = image.position / IMAGE_BLOCK_BYTES;
  const pause = async () => {
    if (image.congested) await image.settle();
    if (breath.due) await breath.take();
  };
  for (const place of layout.inodes) {
    for (let index = 0; index < fullBlocks(place); index++) {
      image.append(contentBlock(layout, place, index));
      await pause();
    }
  }
  const start = image.position;
  for (const place of layout.inodes) {
    image.appendZeros(start + place.offset - image.position);
    image.append(encodeInode(layout, place, firstBlock));
    if (image.congested || breath.due) await pause();
  }
  image.align();
  return start / IMAGE_BLOCK_BYTES;
}

export async function writeSuperblock(
  image: ImageFile,
  layout: ImageLayout,
  metadataBlock: number,
): Promise<void> {
  await image.flush();
  const superblock = encodeSuperblock({
    rootNid: nidOf(layout.inodes[0] as PlacedInode),
    inodes: layout.inodes.length,
    blocks: image.position / IMAGE_BLOCK_BYTES,
    metadataBlock,
    hasChunks: layout.inodes.some((place) => place.layout === LAYOUT.chunked),
  });
  await image.overwrite(superblock, 0);
}

/** Content blocks that are not behind the inode; of files they are written already. */
function fullBlocks({ node, layout, sizeBytes }: PlacedInode): number {
  if (node.type !== 'directory' && node.type !== 'symlink') return 0;
  const blocks = Math.ceil(sizeBytes / IMAGE_BLOCK_BYTES);
  return layout === LAYOUT.inline ? blocks - 1 : blocks;
}

function contentBlock(layout: ImageLayout, place: PlacedInode, index: number): Buffer {
  const block = Buffer.alloc(IMAGE_BLOCK_BYTES);
  writeContent(block, 0, layout, place, index);
  return block;
}

/** Writes one block's worth of a directory, or a link's text. */
function writeContent(
  target: Buffer,
  at: number,
  layout: ImageLayout,
  place: PlacedInode,
  index: number,
): void {
  const { node } = place;
  if (node.type === 'symlink') target.write(node.target, at, 'latin1');
  if (node.type !== 'directory') return;
  const names = place.names.slice(place.ends[index - 1] ?? 0, place.ends[index]);
  writeDirents(
    target,
    at,
    names.map((name) => direntOf(layout, node, name)),
  );
}

function direntOf(layout: ImageLayout, directory: Directory, name: string): Dirent {
  let node = directory.names.get(name)?.node;
  if (!node) node = name === '.' ? directory : (directory.parent ?? directory);
  const place = layout.places.get(node) as PlacedInode;
  return { name, nid: nidOf(place), type: FILE_TYPES[node.type].direntType };
}

function encodeInode(layout: ImageLayout, place: PlacedInode, firstBlock: number): Buffer {
  const { node } = place;
  const bytes = Buffer.alloc(INODE_BYTES + place.xattrBytes + place.behindBytes);
  writeInode(bytes, 0, {
    layout: place.layout,
    xattrUnits: xattrUnits(place.xattrBytes),
    mode: FILE_TYPES[node.type].modeBits | (node.mode & PERMISSION_BITS),
    sizeBytes: place.sizeBytes,
    union: unionOf(place, firstBlock),
    number: place.number,
    uid: node.uid,
    gid: node.gid,
    seconds: node.seconds,
    nanoseconds: node.nanoseconds,
    links: place.links,
  });
  writeXattrs(bytes, INODE_BYTES, node.xattrs);
  writeBehind(bytes, INODE_BYTES + place.xattrBytes, layout, place);
  return bytes;
}

function unionOf({ node, block }: PlacedInode, firstBlock: number): number {
  if (node.type === 'char' || node.type === 'block') return encodeDevice(node.major, node.minor);
  if (node.type !== 'file') return block < 0 ? 0 : firstBlock + block;
  return node.data?.chunks ? node.data.chunkBits : (node.data?.block ?? 0);
}

function writeBehind(target: Buffer, at: number, layout: ImageLayout, place: PlacedInode): void {
  const { node } = place;
  if (place.layout === LAYOUT.inline) writeContent(target, at, layout, place, fullBlocks(place));
  if (place.layout !== LAYOUT.chunked || node.type !== 'file') return;
  node.data?.chunks?.forEach((block, index) => {
    target.writeUInt32LE(block, at + index * 4);
  });
}
