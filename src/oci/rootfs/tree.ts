// The root filesystem as a tree in memory, and how one entry of a layer changes it. Paths are resolved inside the tree only:
// symbolic links and `..` in them cannot lead out of it, and no file of the host is ever looked at.

import type { Attributes, LayerEntry } from './layer-entry.js';
import { beyondLimit, invalidLayer, MAX_NAME_BYTES, type RootfsLimits } from './limits.js';

/** A directory. */
export interface Directory extends Attributes {
  type: 'directory';
  parent: Directory | undefined;
  names: Map<string, Name>;
  /** The layer whose whiteouts have already cleared it of what lower layers had. */
  clearedBy: number;
}

/** Anything but a directory; two names that are hard links share one. Its attributes are the entry's. */
export type Leaf = LayerEntry & { type: 'file' | 'symlink' | 'char' | 'block' | 'fifo' };

export type TreeNode = Directory | Leaf;

/** A name in a directory, with the last layer that wrote it or something below it. */
export interface Name {
  node: TreeNode;
  layer: number;
}

/** Symbolic links followed in one path: what Linux allows, path_resolution(7). */
const MOST_LINKS = 40;
/** Path components walked per permitted entry before the layers count as an attack on time. */
const STEPS_PER_ENTRY = 64;
const IMPLICIT_MODE = 0o755;

function newDirectory(parent: Directory | undefined, attributes: Attributes): Directory {
  const { mode, uid, gid, seconds, nanoseconds, xattrs } = attributes;
  const names = new Map<string, Name>();
  const own = { mode, uid, gid, seconds, nanoseconds, xattrs };
  return { type: 'directory', parent, names, clearedBy: -1, ...own };
}

/** A directory that no layer describes. */
const IMPLICIT: Attributes = {
  mode: IMPLICIT_MODE,
  uid: 0,
  gid: 0,
  seconds: 0,
  nanoseconds: 0,
  xattrs: [],
};

const partsOf = (path: string): string[] => (path === '' ? [] : path.split('/'));

export class Tree {
  readonly root = newDirectory(undefined, IMPLICIT);
  readonly #limits: RootfsLimits;
  #nodes = 1;
  #steps = 0;

  constructor(limits: RootfsLimits) {
    this.#limits = limits;
  }

  /** Applies an entry of a layer; layers come bottom first, their entries in order. */
  apply(entry: LayerEntry): void {
    const parts = partsOf(entry.path);
    if (entry.type === 'opaque') {
      const directory = this.#resolve(parts, entry, false);
      if (directory) this.#clear(directory, entry.place.layer);
      return;
    }
    const name = parts.pop();
    if (name === undefined) this.#describeRoot(entry);
    else if (entry.type === 'whiteout') this.#whiteOut(parts, name, entry);
    else this.#place(this.#resolve(parts, entry, true) as Directory, name, entry);
  }

  /** What lower layers have under this name vanishes; what this layer has written there stays. */
  #whiteOut(parentParts: string[], name: string, entry: LayerEntry): void {
    const parent = this.#resolve(parentParts, entry, false);
    const found = parent?.names.get(name);
    if (!parent || !found) return;
    const { layer } = entry.place;
    if (found.layer < layer) parent.names.delete(name);
    else if (found.node.type === 'directory') this.#clear(found.node, layer);
  }

  /** Removes what layers below `layer` have in a directory. After the first time there is nothing of theirs in it. */
  #clear(top: Directory, layer: number): void {
    const pending = [top];
    for (let directory = pending.pop(); directory; directory = pending.pop()) {
      if (directory.clearedBy === layer) continue;
      directory.clearedBy = layer;
      for (const [name, { node, layer: writtenBy }] of directory.names) {
        if (writtenBy < layer) directory.names.delete(name);
        else if (node.type === 'directory') pending.push(node);
      }
    }
  }

  #describeRoot(entry: LayerEntry): void {
    if (entry.type !== 'directory') throw invalidLayer(entry.place, 'the root is a directory');
    describe(this.root, entry);
  }

  #place(parent: Directory, name: string, entry: LayerEntry): void {
    const { layer } = entry.place;
    const found = parent.names.get(name);
    if (entry.type === 'directory') {
      if (found?.node.type === 'directory') {
        describe(found.node, entry);
        found.layer = layer;
      } else
        parent.names.set(name, { node: this.#count(newDirectory(parent, entry), entry), layer });
      return;
    }
    const node = entry.type === 'hardlink' ? this.#linkTarget(entry) : (entry as Leaf);
    parent.names.set(name, { node: this.#count(node, entry), layer });
  }

  #linkTarget(entry: LayerEntry): Leaf {
    const parts = partsOf(entry.target);
    const name = parts.pop();
    const found = name && this.#resolve(parts, entry, false)?.names.get(name);
    if (!found) throw invalidLayer(entry.place, 'a hard link to a file that does not exist');
    if (found.node.type === 'directory')
      throw invalidLayer(entry.place, 'a hard link to a directory');
    return found.node;
  }

  /**
   * The directory of this path, symbolic links followed. With `create`, missing ones are made and all on the way are marked
   * as written by the entry's layer; without, undefined when there is none.
   */
  #resolve(parts: readonly string[], entry: LayerEntry, create: boolean): Directory | undefined {
    const pending = parts.toReversed();
    let directory = this.root;
    let links = 0;
    for (let part = pending.pop(); part !== undefined; part = pending.pop()) {
      this.#countStep(entry);
      if (part === '..') {
        directory = directory.parent ?? directory;
        continue;
      }
      const found =
        directory.names.get(part) ?? (create && this.#makeDirectory(directory, part, entry));
      if (!found) return undefined;
      const { node } = found;
      if (node.type === 'symlink') {
        if (++links > MOST_LINKS) throw invalidLayer(entry.place, 'too many symbolic links');
        if (node.target.startsWith('/')) directory = this.root;
        pending.push(...linkParts(node.target));
      } else if (node.type === 'directory') {
        if (create) found.layer = entry.place.layer;
        directory = node;
      } else if (create) throw invalidLayer(entry.place, 'its parent is not a directory');
      else return undefined;
    }
    return directory;
  }

  #makeDirectory(parent: Directory, name: string, entry: LayerEntry): Name {
    if (name.length > MAX_NAME_BYTES) {
      throw invalidLayer(entry.place, 'a name of more than 255 bytes');
    }
    const node = this.#count(newDirectory(parent, IMPLICIT), entry);
    const made = { node, layer: entry.place.layer };
    parent.names.set(name, made);
    return made;
  }

  #count<T extends TreeNode>(node: T, entry: LayerEntry): T {
    const { entries } = this.#limits;
    if (++this.#nodes > entries) throw beyondLimit(entry.place, 'entries', entries);
    return node;
  }

  #countStep(entry: LayerEntry): void {
    if (++this.#steps > this.#limits.entries * STEPS_PER_ENTRY) {
      throw beyondLimit(entry.place, 'entries', this.#limits.entries);
    }
  }
}

const linkParts = (target: string): string[] =>
  target
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .reverse();

function describe(directory: Directory, entry: LayerEntry): void {
  const { mode, uid, gid, seconds, nanoseconds, xattrs } = entry;
  Object.assign(directory, { mode, uid, gid, seconds, nanoseconds, xattrs });
}
