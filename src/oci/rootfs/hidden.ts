// What upper layers certainly hide, so that the content of hidden files need not go into the image. A guess on the safe side:
// it goes by names alone, and what it wrongly leaves out is fetched in a second pass.

import type { LayerEntry } from './layer-entry.js';
import { beyondLimit, type RootfsLimits } from './limits.js';

interface Node {
  children: Map<string, Node> | undefined;
  /** Nothing of lower layers shows at this path. */
  self: boolean;
  /** Nothing of lower layers shows below this path. */
  below: boolean;
}

const newNode = (): Node => ({ children: undefined, self: false, below: false });

export class HiddenPaths {
  readonly #root = newNode();
  readonly #limits: RootfsLimits;
  #nodes = 0;

  constructor(limits: RootfsLimits) {
    this.#limits = limits;
  }

  /** Takes an entry of a layer above all those that are asked about from now on. */
  add(entry: LayerEntry): void {
    let node = this.#root;
    for (const part of entry.path === '' ? [] : entry.path.split('/')) {
      node.children ??= new Map();
      let child = node.children.get(part);
      if (!child) {
        this.#count(entry);
        child = newNode();
        node.children.set(part, child);
      }
      node = child;
    }
    if (entry.type !== 'opaque') node.self = true;
    if (entry.type !== 'directory') node.below = true;
  }

  /** Whether a file of this path in a lower layer is hidden. */
  covers(path: string): boolean {
    let node = this.#root;
    for (const part of path.split('/')) {
      if (node.below) return true;
      const child = node.children?.get(part);
      if (!child) return false;
      node = child;
    }
    return node.self;
  }

  #count(entry: LayerEntry): void {
    this.#nodes++;
    const { entries } = this.#limits;
    if (this.#nodes > entries) throw beyondLimit(entry.place, 'entries', entries);
  }
}
