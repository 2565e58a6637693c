// Where every inode and directory of a tree goes in the image. Nothing is written yet: directories name their children by
// inode number, so all places must be known first.

import type { Breath } from './breath.js';
import { INODE_BYTES, INODE_SLOT_BYTES, LAYOUT, splitDirents } from './erofs-format.js';
import { chunkMapBytes } from './file-data.js';
import { IMAGE_BLOCK_BYTES } from './image-file.js';
import type { Directory, TreeNode } from './tree.js';
import { xattrBytes } from './xattrs.js';

/** The place of one inode. */
export interface PlacedInode {
  node: TreeNode;
  /** 1, 2, 3 … in the order of the metadata area. */
  number: number;
  /** Offset in the metadata area, bytes. */
  offset: number;
  layout: number;
  /** Bytes of extended attributes, and of what follows them: the content's tail or a chunk map. */
  xattrBytes: number;
  behindBytes: number;
  sizeBytes: number;
  /** First of a directory's full blocks, or of a long link text, counted from the layout's first; -1 without. */
  block: number;
  links: number;
  /** Of a directory: its names with `.` and `..`, sorted, and how they split into blocks. */
  names: readonly string[];
  ends: readonly number[];
}

export const nidOf = ({ offset }: PlacedInode): number => offset / INODE_SLOT_BYTES;

const NOTHING: readonly never[] = [];

export class ImageLayout {
  readonly inodes: PlacedInode[] = [];
  readonly places = new Map<TreeNode, PlacedInode>();
  /** Names in all directories, `.` and `..` not counted. */
  names = 0;
  /** Bytes of the metadata area. Its first inode leaves room, so that no file has the number 0. */
  metadataBytes = INODE_BYTES;
  /** Blocks of directories and long links; the metadata area follows them. */
  blocks = 0;

  static async of(root: Directory, breath: Breath): Promise<ImageLayout> {
    const layout = new ImageLayout();
    layout.#add(root);
    const pending = [root];
    for (let directory = pending.pop(); directory; directory = pending.pop()) {
      const own = layout.places.get(directory) as PlacedInode;
      for (const name of own.names) {
        const node = directory.names.get(name)?.node;
        if (!node) continue; // The directory itself and its parent.
        layout.#addName(node, own);
        if (node.type === 'directory') pending.push(node);
        if (breath.due) await breath.take();
      }
    }
    return layout;
  }

  #addName(node: TreeNode, parent: PlacedInode): void {
    this.names++;
    const place = this.places.get(node) ?? this.#add(node);
    if (node.type === 'directory') parent.links++;
    else place.links++;
  }

  #add(node: TreeNode): PlacedInode {
    const place: PlacedInode = {
      node,
      number: this.inodes.length + 1,
      offset: 0,
      layout: LAYOUT.plain,
      xattrBytes: xattrBytes(node.xattrs),
      behindBytes: 0,
      sizeBytes: 0,
      block: -1,
      links: node.type === 'directory' ? 2 : 0,
      names: NOTHING,
      ends: NOTHING,
    };
    if (node.type === 'directory') this.#layDirectory(place, node);
    else if (node.type === 'symlink') this.#layContent(place, node.target.length);
    else if (node.type === 'file') {
      place.sizeBytes = node.sizeBytes;
      if (node.sparse && node.sizeBytes > 0) {
        place.layout = LAYOUT.chunked;
        place.behindBytes = chunkMapBytes(node.sizeBytes);
      }
    }
    this.#position(place);
    this.inodes.push(place);
    this.places.set(node, place);
    return place;
  }

  #layDirectory(place: PlacedInode, directory: Directory): void {
    // Names are byte strings, so the default order is that of their bytes, as the kernel's binary search expects.
    place.names = ['.', '..', ...directory.names.keys()].sort();
    const { ends, lastBytes } = splitDirents(place.names);
    place.ends = ends;
    this.#layContent(place, (ends.length - 1) * IMAGE_BLOCK_BYTES + lastBytes);
  }

  /** Full blocks go before the metadata area; the tail goes behind the inode when both fit into one block. */
  #layContent(place: PlacedInode, sizeBytes: number): void {
    place.sizeBytes = sizeBytes;
    const tail = sizeBytes % IMAGE_BLOCK_BYTES;
    const fits = INODE_BYTES + place.xattrBytes + tail <= IMAGE_BLOCK_BYTES;
    const isInline = tail > 0 && fits;
    let blocks = Math.ceil(sizeBytes / IMAGE_BLOCK_BYTES);
    if (isInline) {
      place.layout = LAYOUT.inline;
      place.behindBytes = tail;
      blocks--;
    }
    if (blocks > 0) place.block = this.blocks;
    this.blocks += blocks;
  }

  /** Inodes with a tail must not cross a block's border (erofs_map_blocks_flatmode(), Linux fs/erofs/data.c). */
  #position(place: PlacedInode): void {
    const bytes = INODE_BYTES + place.xattrBytes + place.behindBytes;
    let offset = alignTo(this.metadataBytes, INODE_BYTES);
    const past = offset % IMAGE_BLOCK_BYTES;
    if (bytes <= IMAGE_BLOCK_BYTES && past + bytes > IMAGE_BLOCK_BYTES) {
      offset = alignTo(offset, IMAGE_BLOCK_BYTES);
    }
    place.offset = offset;
    this.metadataBytes = offset + bytes;
  }
}

const alignTo = (value: number, bytes: number) => Math.ceil(value / bytes) * bytes;
