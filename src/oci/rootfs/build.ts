// Layers in, root filesystem image out. Layers are read once each, top first, so that the content of hidden files is
// known to be hidden when it comes by; their entries are then applied to a tree in the order the image was made, bottom
// first. Nothing is unpacked, mounted or looked up on the host.

import { createHash, randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { VmforkError } from '../../errors.js';
import { Breath } from './breath.js';
import { HiddenPaths } from './hidden.js';
import { IMAGE_BLOCK_BYTES, ImageFile } from './image-file.js';
import type { LayerEntry } from './layer-entry.js';
import { type Budget, type Feeding, LayerScanner, sameEntry, scanLayer } from './layer-scan.js';
import type { LayerSource } from './layer-source.js';
import { ImageLayout } from './layout.js';
import { beyondLimit, invalidLayer, type RootfsLimits, resolveLimits } from './limits.js';
import { writeMetadata, writeSuperblock } from './metadata-writer.js';
import { systemFailure } from './system-failure.js';
import { type Leaf, Tree } from './tree.js';

/** Changes whenever the same layers give another image. */
export const WRITER_VERSION = 1;

/** How far a building is. */
export interface RootfsProgress {
  /** Layers that have been read, and all of them. */
  layersDone: number;
  layers: number;
  /** Decompressed bytes read so far. */
  doneBytes: number;
}

/** Options of {@link buildRootfs}. */
export interface BuildRootfsOptions {
  /** The image's layers, bottom first. None gives an empty root directory. */
  layers: readonly LayerSource[];
  /** Path of the image; it appears when it is complete, and replaces what was there. */
  output: string;
  /** What hostile layers may cost. Default {@link RootfsLimits}' defaults. */
  limits?: Partial<RootfsLimits> | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: RootfsProgress) => void) | undefined;
}

/** A finished image. */
export interface RootfsInfo {
  path: string;
  sizeBytes: number;
  /** Names in all directories of the tree, the root not counted. */
  entries: number;
  /** `sha256:` and the digest of the file. The same layers always give the same. */
  digest: string;
}

/**
 * Writes the root filesystem that these layers describe as an EROFS image: flat, uncompressed, file contents aligned to
 * 4 KiB blocks, reproducible to the byte. Needs no privileges.
 * Holes of sparse files are not stored. Kept are types, permission bits, numeric owners, modification times, device numbers,
 * hard links and the extended attributes that EROFS knows (user, trusted, security, access control lists), except overlayfs' own.
 *
 * @throws VmforkError `VMF_LAYER_INVALID`, `VMF_LAYER_LIMIT`, `VMF_OPTIONS`, `VMF_SYSTEM`, `VMF_ABORTED`, and what a layer's
 * source throws. Nothing is left behind then.
 */
export async function buildRootfs(options: BuildRootfsOptions): Promise<RootfsInfo> {
  checkOptions(options);
  const { output } = options;
  const temporary = `${output}.${randomBytes(8).toString('hex')}.tmp`;
  try {
    const info = await writeImage(temporary, options);
    await publish(temporary, output);
    return { ...info, path: output };
  } catch (failure) {
    await rm(temporary, { force: true });
    throw failure;
  }
}

function checkOptions({ layers, output }: BuildRootfsOptions): void {
  if (typeof output !== 'string' || output === '') {
    throw new VmforkError('VMF_OPTIONS', 'output must be the path of a file');
  }
  if (!Array.isArray(layers) || layers.some((layer) => typeof layer?.open !== 'function')) {
    throw new VmforkError('VMF_OPTIONS', 'layers must be an array of layer sources');
  }
}

async function writeImage(path: string, options: BuildRootfsOptions): Promise<RootfsInfo> {
  const image = await ImageFile.create(path);
  try {
    return await new Building(image, options).run(path);
  } finally {
    await image.close();
  }
}

async function publish(temporary: string, output: string): Promise<void> {
  try {
    await rename(temporary, output);
    const directory = await open(dirname(output));
    await directory.sync().finally(() => directory.close());
  } catch (cause) {
    throw systemFailure('rename', output, cause);
  }
}

class Building {
  readonly #image: ImageFile;
  readonly #layers: readonly LayerSource[];
  readonly #limits: RootfsLimits;
  readonly #breath: Breath;
  readonly #feeding: Feeding;
  /** Of every layer all entries, in the archive's order. */
  readonly #entries: LayerEntry[][] = [];

  constructor(image: ImageFile, { layers, limits, signal, onProgress }: BuildRootfsOptions) {
    this.#image = image;
    this.#layers = layers;
    this.#limits = resolveLimits(limits);
    this.#breath = new Breath(signal);
    let doneBytes = 0;
    const onBytes = (bytes: number) => {
      doneBytes += bytes;
      onProgress?.({
        layersDone: this.#entries.filter(Boolean).length,
        layers: layers.length,
        doneBytes,
      });
    };
    this.#feeding = { breath: this.#breath, signal, onBytes };
  }

  async run(path: string): Promise<RootfsInfo> {
    this.#breath.check();
    this.#image.appendZeros(IMAGE_BLOCK_BYTES); // The superblock's, which comes last.
    await this.#readLayers();
    const tree = await this.#applyLayers();
    const layout = await ImageLayout.of(tree.root, this.#breath);
    await this.#fetchMissing(layout);
    const sizeBytes = await this.#writeFilesystem(layout);
    const digest = await this.#digest(sizeBytes);
    return { path, sizeBytes, entries: layout.names, digest };
  }

  async #readLayers(): Promise<void> {
    const hidden = new HiddenPaths(this.#limits);
    const budget = this.#budget();
    for (let layer = this.#layers.length - 1; layer >= 0; layer--) {
      const entries: LayerEntry[] = [];
      const scanner = new LayerScanner(layer, this.#image, budget, {
        wants: (entry) => entries.push(entry) > 0 && !hidden.covers(entry.path),
        stored: () => {},
      });
      await scanLayer(this.#layers[layer] as LayerSource, scanner, this.#feeding);
      this.#entries[layer] = entries;
      if (layer > 0) await this.#forEach(entries, (entry) => hidden.add(entry));
    }
  }

  async #applyLayers(): Promise<Tree> {
    const tree = new Tree(this.#limits);
    for (const entries of this.#entries) {
      await this.#forEach(entries, (entry) => tree.apply(entry));
    }
    return tree;
  }

  /** Reads layers again for contents that looked hidden and are not: of hard links, and behind linked directories. */
  async #fetchMissing(layout: ImageLayout): Promise<void> {
    const missing = new Set<Leaf>();
    for (const { node } of layout.inodes) {
      if (node.type === 'file' && node.sizeBytes > 0 && !node.data) missing.add(node);
    }
    const layers = new Set([...missing].map((node) => node.place.layer));
    for (const layer of [...layers].sort((a, b) => b - a)) {
      const first = this.#entries[layer] as LayerEntry[];
      const scanner = new LayerScanner(layer, this.#image, this.#budget(), {
        wants: (entry, index) => {
          const known = first[index];
          if (!known) throw invalidLayer(entry.place, 'the layer has changed since the first pass');
          if (!missing.has(known as Leaf)) return false;
          sameEntry(known, entry);
          return true;
        },
        stored: (entry, index) => {
          const known = first[index] as Leaf;
          known.data = entry.data;
          missing.delete(known);
        },
      });
      await scanLayer(this.#layers[layer] as LayerSource, scanner, this.#feeding);
    }
    for (const node of missing) {
      throw invalidLayer(node.place, 'the layer has changed since the first pass');
    }
  }

  async #writeFilesystem(layout: ImageLayout): Promise<number> {
    const image = this.#image;
    const { imageBytes } = this.#limits;
    const metadataBlock = await writeMetadata(image, layout, this.#breath);
    const sizeBytes = image.position;
    if (sizeBytes > imageBytes) {
      throw beyondLimit({ layer: 0, offset: 0, name: '' }, 'imageBytes', imageBytes);
    }
    await writeSuperblock(image, layout, metadataBlock);
    await image.finish(sizeBytes);
    return sizeBytes;
  }

  /** The superblock comes last and stands first, so the file is read back, which its pages in memory make cheap. */
  async #digest(sizeBytes: number): Promise<string> {
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafe(DIGEST_PIECE_BYTES);
    for (let position = 0; position < sizeBytes; ) {
      const length = await this.#image.read(buffer, position);
      if (length === 0) throw new VmforkError('VMF_INTERNAL', 'the image is shorter than written');
      hash.update(buffer.subarray(0, length));
      position += length;
      if (this.#breath.due) await this.#breath.take();
    }
    return `sha256:${hash.digest('hex')}`;
  }

  async #forEach(entries: readonly LayerEntry[], action: (entry: LayerEntry) => void) {
    for (const entry of entries) {
      action(entry);
      if (this.#breath.due) await this.#breath.take();
    }
  }

  #budget(): Budget {
    const limits = this.#limits;
    const { layerBytes, entries, metadataBytes } = limits;
    return { limits, layerBytes, entries, metadataBytes };
  }
}

const DIGEST_PIECE_BYTES = 1 << 20;
