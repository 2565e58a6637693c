// Fuzz targets for what reads layers: the tar reader, and all of building a root filesystem from them.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect } from 'vitest';
import { buildRootfs } from '#src/oci/rootfs/index.js';
import { resolveLimits } from '#src/oci/rootfs/limits.js';
import type { TarMember } from '#src/oci/rootfs/tar-entry.js';
import { TarReader, type TarSink } from '#src/oci/rootfs/tar-reader.js';
import { layerOf, scratch } from '../unit/oci/rootfs/trees.js';
import { anyArchive } from './archives.js';
import { fuzz, outcomeOf } from './fuzz.js';

const folder = scratch();
afterAll(() => folder[Symbol.dispose]());

const limits = { imageBytes: 2 ** 24, entries: 500, metadataBytes: 2 ** 20, headerBytes: 2 ** 16 };
const LAYER_ERRORS = /^VMF_LAYER_(INVALID|LIMIT)$/;

/** Keeps what it is given, and checks it. */
class Recorder implements TarSink {
  readonly congested = false;
  readonly seen: unknown[] = [];
  #left = 0;
  #hash = createHash('sha256');

  member(member: TarMember): void {
    for (const value of [member.uid, member.gid, member.sizeBytes, member.storedBytes]) {
      expect(Number.isSafeInteger(value) && value >= 0).toBe(true);
    }
    expect(this.#left).toBe(0);
    this.#left = member.storedBytes;
    this.#hash = createHash('sha256');
    this.seen.push(structuredClone(member));
  }

  data(bytes: Buffer): number {
    const taken = Math.ceil(bytes.length / 2);
    this.#left -= taken;
    this.#hash.update(bytes.subarray(0, taken));
    return taken;
  }

  end(): void {
    expect(this.#left).toBe(0);
    this.seen.push(this.#hash.digest('hex'));
  }
}

async function read(tar: Buffer, pieceBytes: number) {
  const recorder = new Recorder();
  const reader = new TarReader(0, recorder, resolveLimits(limits));
  const { error } = await outcomeOf(() => {
    let taken = 0;
    for (let at = 0; at < tar.length; at += pieceBytes) {
      taken += reader.feed(tar.subarray(at, at + pieceBytes), 0);
    }
    expect(taken).toBe(tar.length);
    reader.finish();
  }, LAYER_ERRORS);
  return { seen: recorder.seen, message: error?.message };
}

fuzz(
  'the tar reader gives members in order or a typed error, the same however the archive is cut in pieces',
  fc.tuple(anyArchive, fc.integer({ min: 1, max: 1500 })),
  async ([tar, pieceBytes]) => {
    expect(await read(tar, pieceBytes)).toEqual(await read(tar, Number.POSITIVE_INFINITY));
  },
);

let built = 0;

fuzz(
  'layers give an image in order, the same each time, or a typed error, and touch nothing else',
  fc.array(anyArchive, { minLength: 1, maxLength: 3 }),
  async (tars) => {
    const work = join(folder.path, 'work');
    mkdirSync(work, { recursive: true });
    const build = async (output: string, pieceBytes: number) => {
      const layers = tars.map((tar) => layerOf(tar, pieceBytes));
      const outcome = await outcomeOf(() => buildRootfs({ layers, output, limits }), LAYER_ERRORS);
      return outcome.error?.message;
    };
    const [one, two] = [join(work, 'one'), join(work, 'two')];
    const failure = await build(one, 65_536);
    expect(await build(two, 999)).toBe(failure);
    expect(readdirSync(folder.path)).toEqual(['work']);
    expect(readdirSync(work)).toEqual(failure === undefined ? ['one', 'two'] : []);
    if (failure !== undefined) return;
    expect(readFileSync(one).equals(readFileSync(two))).toBe(true);
    if (built++ % 8 === 0) execFileSync('fsck.erofs', [one], { stdio: 'pipe' });
    rmSync(work, { recursive: true });
  },
);
