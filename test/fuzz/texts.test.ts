// Fuzz targets for small parsers: references, documents of images, challenges of registries, frames of zstd.

import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect } from 'vitest';
import { parseChallenges } from '#src/oci/auth.js';
import { parseReference } from '#src/oci/reference.js';
import { parseImageConfig, parseIndex, parseManifest } from '#src/oci/schemas.js';
import { framePieces } from '#src/oci/zstd-frames.js';
import { documents, expectChecked, expectStable, spoiled } from '../helpers/oci/documents.js';
import { frameHeader, rawBlock, rleBlock, singleHeader } from '../unit/oci/zstd-maker.js';
import { damagedBytes } from './archives.js';
import { fuzz, outcomeOf } from './fuzz.js';

const letters = fc.constantFrom(
  ...['a', 'Z', '0', '.', '_', '-', '/', ':', '@', '[', ']', '\0', ' ', 'é', '::1', 'localhost'],
  ...['sha256:', 'sha512:', '0'.repeat(64), 'docker.io/', 'library/', ':5000', 'a'.repeat(130)],
);
const soup = fc.array(letters, { maxLength: 10 }).map((parts) => parts.join(''));

fuzz('a reference reads the same in all its forms, or is refused', soup, async (text) => {
  const { value } = await outcomeOf(() => parseReference(text), /^VMF_IMAGE_REFERENCE$/);
  if (value) expectStable(value);
});

const parsers = { manifest: parseManifest, index: parseIndex, config: parseImageConfig };
const kinds = Object.keys(parsers) as (keyof typeof parsers)[];
const document = fc.constantFrom(...kinds).chain((kind) => {
  const whole = spoiled(documents[kind]).map((json) => Buffer.from(JSON.stringify(json)));
  return fc.tuple(fc.constant(kind), damagedBytes(whole));
});

fuzz('a document is in order, or refused', document, async ([kind, bytes]) => {
  const { value } = await outcomeOf(
    (): unknown => parsers[kind](bytes),
    /^VMF_IMAGE_(INVALID|UNSUPPORTED)$/,
  );
  if (value) expectChecked(value);
});

const challenge = fc
  .array(
    fc.constantFrom(
      ...['Bearer', 'Basic', ' ', '=', '"', '\\', ',', 'realm', 'service', '__proto__', '\n'],
      ...['https://x/', '\xff', 'a'.repeat(5000)],
    ),
    { maxLength: 30 },
  )
  .map((parts) => parts.join(''));

fuzz('a challenge is read whatever it is', challenge, (text) => {
  for (const { scheme, parameters } of parseChallenges(text)) {
    expect(scheme).not.toBe('');
    expect(Object.getPrototypeOf(parameters)).toBeNull();
  }
});

const packed = ['-1', '-19', '--no-check'].map((option) =>
  execFileSync('zstd', ['-q', '-c', option], { input: Buffer.from('some text '.repeat(30_000)) }),
);
const block = fc.oneof(
  fc.nat(140_000).map((times) => rleBlock(times)),
  fc.uint8Array({ maxLength: 50 }).map((bytes) => rawBlock(Buffer.from(bytes))),
);
const frame = fc
  .tuple(
    fc.oneof(
      fc
        .tuple(fc.integer({ min: 10, max: 41 }), fc.nat(255))
        .map((fields) => frameHeader(...fields)),
      fc.nat(2 ** 31).map(singleHeader),
    ),
    fc.array(block, { maxLength: 20 }),
  )
  .map(([header, blocks]) => Buffer.concat([header, ...blocks, rleBlock(1, true)]));
const stream = damagedBytes(
  fc
    .array(fc.oneof(fc.constantFrom(...packed), frame), { maxLength: 3 })
    .map((frames) => Buffer.concat(frames)),
);

/** What comes out of a stream that comes in pieces. */
async function piecesOf(bytes: Buffer, pieceBytes: number) {
  const seen: string[] = [];
  async function* source() {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
  }
  const { error } = await outcomeOf(async () => {
    for await (const piece of framePieces(source())) {
      expect(piece.bytes.length).toBeLessThan(2 ** 20 + 100);
      seen.push(`${piece.begins} ${piece.ends} ${piece.bytes.toString('base64')}`);
    }
  }, /^VMF_IMAGE_(INVALID|UNSUPPORTED)$/);
  return { seen, message: error?.message };
}

fuzz(
  'frames of zstd come apart into small pieces, the same however they come, or are refused',
  fc.tuple(stream, fc.integer({ min: 1, max: 100 })),
  async ([bytes, pieceBytes]) => {
    expect(await piecesOf(bytes, pieceBytes)).toEqual(
      await piecesOf(bytes, Number.POSITIVE_INFINITY),
    );
  },
);
