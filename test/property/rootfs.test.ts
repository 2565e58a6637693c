// Random layers against a model of merging that shares nothing with the real one, and random damage to archives.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VmforkError } from '#src/errors.js';
import { buildRootfs } from '#src/oci/rootfs/index.js';
import {
  archive,
  directory,
  hardlink,
  type Member,
  symlink,
} from '../unit/oci/rootfs/tar-maker.js';
import { layerOf, scratch, withImage } from '../unit/oci/rootfs/trees.js';

type Step =
  | { kind: 'file' | 'directory' | 'whiteout' | 'opaque'; path: string; content: string }
  | { kind: 'link'; path: string; to: string };

const name = fc.constantFrom('a', 'b', 'c');
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
const content = fc.string({ unit: 'binary-ascii', maxLength: 12 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('file' as const), path, content }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('directory' as const), path, content }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('whiteout' as const), path, content }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('opaque' as const), path, content }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('link' as const), path, to: path }) },
);
const stack = fc.array(fc.array(step, { maxLength: 8 }), { minLength: 1, maxLength: 4 });

/** The model: a flat table of paths. A file is an object, so that hard links are the same one. */
type Model = Map<string, { content: string | undefined; layer: number }>;

const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')));
const isBelow = (path: string, parent: string) => path.startsWith(`${parent}/`);

/** Applies a step, or says that it would be refused. */
function applyToModel(model: Model, step: Step, layer: number): boolean {
  const ancestors = step.path.split('/').slice(0, -1);
  const parents = ancestors.map((_, index) => ancestors.slice(0, index + 1).join('/'));
  const isFile = (path: string) => model.get(path)?.content !== undefined;
  if (step.kind === 'whiteout' || step.kind === 'opaque') {
    for (const [path, { layer: writtenBy }] of model) {
      const isHit = isBelow(path, step.path) || (step.kind === 'whiteout' && path === step.path);
      if (isHit && writtenBy < layer) model.delete(path);
    }
    return true;
  }
  if (parents.some(isFile)) return false;
  const target = step.kind === 'link' ? model.get(step.to) : undefined;
  if (step.kind === 'link' && target?.content === undefined) return false;
  for (const parent of parents) model.set(parent, { content: undefined, layer });
  if (step.kind !== 'directory') {
    for (const path of [...model.keys()]) if (isBelow(path, step.path)) model.delete(path);
  }
  const written = step.kind === 'file' ? step.content : target?.content;
  model.set(step.path, { content: step.kind === 'directory' ? undefined : written, layer });
  return true;
}

function memberOf(step: Step): Member {
  const parent = parentOf(step.path);
  const inParent = (last: string) => (parent === '' ? last : `${parent}/${last}`);
  switch (step.kind) {
    case 'file':
      return { name: step.path, content: step.content };
    case 'directory':
      return directory(step.path);
    case 'link':
      return hardlink(step.path, step.to);
    case 'whiteout':
      return { name: inParent(`.wh.${step.path.slice(step.path.lastIndexOf('/') + 1)}`) };
    case 'opaque':
      return { name: `${step.path}/.wh..wh..opq` };
  }
}

/** Paths with contents as the kernel reads them. */
function contentsOf(root: string): Record<string, string | undefined> {
  const found: Record<string, string | undefined> = {};
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    const isFile = entry.isFile();
    found[path.slice(root.length + 1)] = isFile ? readFileSync(path, 'latin1') : undefined;
  }
  return found;
}

const timeoutMs = 120_000;

describe('random layers', () => {
  it('merge like the model', { timeout: timeoutMs }, async () => {
    await fc.assert(
      fc.asyncProperty(stack, async (layers) => {
        const model: Model = new Map();
        const applied = layers.map((steps, layer) =>
          steps.filter((each) => applyToModel(model, each, layer)),
        );
        const archives = applied.map((steps) => archive(...steps.map(memberOf)));
        const expected = [...model].map(([path, { content }]) => [path, content]);
        expect(await withImage(archives, contentsOf)).toEqual(Object.fromEntries(expected));
      }),
      { numRuns: 60, seed: 20_240 },
    );
  });
});

describe('damaged archives', () => {
  const whole = archive(
    directory('d', { pax: { 'SCHILY.xattr.user.k': 'v', mtime: '1.5' } }),
    { name: 'd/f', content: 'x'.repeat(700) },
    symlink('l', 'd'),
    hardlink('l/h', 'd/f'),
    {
      name: 's',
      pax: { 'GNU.sparse.major': '1', 'GNU.sparse.realsize': '9000' },
      content: '1\n8000\n3\n'.padEnd(512, '\0').concat('abc'),
    },
    { name: 'n', type: 'L', content: 'long/'.repeat(30) },
    { name: 'dev', type: '3', major: 1, minor: 3 },
    { name: 'd/.wh.f' },
  );
  const damage = fc.record({
    at: fc.nat(whole.length - 1),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 3 }),
    cut: fc.option(fc.nat(whole.length), { freq: 1 }),
    fixSum: fc.constantFrom(true, true, true, true, false),
  });

  it('give a valid image or a typed error, and touch nothing else', {
    timeout: timeoutMs,
  }, async () => {
    using folder = scratch();
    const output = join(folder.path, 'image');
    let built = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(damage, { minLength: 1, maxLength: 2 }),
        fc.integer({ min: 1, max: 2000 }),
        async (damages, pieceBytes) => {
          const tar = damages.reduce(damaged, whole);
          const failure = await buildRootfs({
            layers: [layerOf(whole), layerOf(tar, pieceBytes)],
            output,
            limits: { imageBytes: 2 ** 26 },
          }).then(
            () => undefined,
            (error: unknown) => error,
          );
          if (
            failure !== undefined &&
            !(VmforkError.is(failure) && /^VMF_LAYER_/.test(failure.code))
          )
            throw failure;
          expect(readdirSync(folder.path)).toEqual(
            readdirSync(folder.path).filter((name) => name === 'image'),
          );
          if (failure === undefined && built++ % 4 === 0)
            execFileSync('fsck.erofs', [output], { stdio: 'pipe' });
        },
      ),
      { numRuns: 400, seed: 77 },
    );
    expect(built).toBeGreaterThan(100);
  });

  interface Damage {
    at: number;
    bytes: Uint8Array;
    cut: number | null;
    fixSum: boolean;
  }

  /** Overwrites some bytes, with the header's checksum made right again or not, and perhaps cuts the rest off. */
  function damaged(tar: Buffer, { at, bytes, cut, fixSum }: Damage): Buffer {
    const copy = Buffer.from(tar);
    copy.set(bytes.subarray(0, Math.max(0, copy.length - at)), Math.min(at, copy.length));
    const block = at - (at % 512);
    if (fixSum && block + 512 <= copy.length) {
      copy.fill(0x20, block + 148, block + 156);
      const sum = copy.subarray(block, block + 512).reduce((total, byte) => total + byte, 0);
      copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, block + 148, 'latin1');
    }
    return cut === null ? copy : copy.subarray(0, cut);
  }
});
