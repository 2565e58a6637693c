// Hostile text: parsers of references, documents, challenges and archives give a value that is in order or a typed error.
// fast-check prints the seed and the smallest counterexample of a failure.

import { open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { VmforkError } from '#src/errors.js';
import { TarArchive } from '#src/oci/archive.js';
import { parseChallenges } from '#src/oci/auth.js';
import { parseReference } from '#src/oci/reference.js';
import { parseImageConfig, parseIndex, parseManifest } from '#src/oci/schemas.js';
import { documents, expectChecked, expectStable, spoiled } from '../helpers/oci/documents.js';

const path = join(tmpdir(), `vmfork-oci-property-${process.pid}.tar`);
afterAll(() => rm(path, { force: true }));

/** The result, or undefined for an error with one of these codes. Any other error fails. */
function attempt<T>(step: () => T, ...codes: string[]): T | undefined {
  try {
    return step();
  } catch (error) {
    if (VmforkError.is(error) && codes.includes(error.code)) return undefined;
    throw error;
  }
}

const part = fc.stringMatching(/^[a-z0-9]+([._-][a-z0-9]+)?$/);
const host = fc.oneof(
  fc.constant(undefined),
  fc.stringMatching(/^[a-z0-9]+\.[a-z]+(:[1-9][0-9]{0,3})?$/),
  fc.constant('localhost:5000'),
);
const tag = fc.option(fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}$/), { nil: undefined });
const digest = fc.stringMatching(/^[0-9a-f]{64}$/).map((hex) => `sha256:${hex}`);
const name = fc
  .tuple(host, fc.array(part, { minLength: 1, maxLength: 3 }), tag, fc.option(digest))
  .map(([at, parts, label, content]) =>
    [
      at ? `${at}/` : '',
      parts.join('/'),
      label ? `:${label}` : '',
      content ? `@${content}` : '',
    ].join(''),
  );

test('a reference in order is taken, and reads the same in all its forms', () => {
  fc.assert(fc.property(name, (text) => expectStable(parseReference(text))));
});

test('any other text is refused, or reads the same in all its forms', () => {
  const letters = fc.constantFrom(...'aZ0._-/:@[]\0 é'.split(''), 'sha256:', 'docker.io/');
  const soup = fc.array(letters, { maxLength: 12 }).map((parts) => parts.join(''));
  fc.assert(
    fc.property(fc.oneof(soup, fc.string()), (text) => {
      const reference = attempt(() => parseReference(text), 'VMF_IMAGE_REFERENCE');
      if (reference) expectStable(reference);
    }),
    { numRuns: 2000 },
  );
});

test.each([
  ['manifest', parseManifest],
  ['index', parseIndex],
  ['config', parseImageConfig],
] as const)('a spoiled %s is refused, or in order', (kind, parse) => {
  expect(parse(Buffer.from(JSON.stringify(documents[kind])))).toBeDefined();
  fc.assert(
    fc.property(spoiled(documents[kind]), (json) => {
      const bytes = Buffer.from(JSON.stringify(json));
      const result = attempt((): unknown => parse(bytes), 'VMF_IMAGE_INVALID');
      if (result) expectChecked(result);
    }),
    { numRuns: 1000 },
  );
});

test('bytes that are no JSON are refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      attempt(() => parseManifest(bytes), 'VMF_IMAGE_INVALID');
    }),
  );
});

test('challenges are read whatever they are', () => {
  expect(
    parseChallenges('Basic realm="a\\"b", Bearer realm="https://x/",service=y, scope="a,b"'),
  ).toMatchObject([
    { scheme: 'basic', parameters: { realm: 'a"b' } },
    { scheme: 'bearer', parameters: { realm: 'https://x/', service: 'y', scope: 'a,b' } },
  ]);
  const piece = fc.constantFrom('Bearer', ' ', '=', '"', '\\', ',', 'realm', '__proto__', '\n');
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(piece).map((parts) => parts.join('')),
      ),
      (text) => {
        for (const { scheme } of parseChallenges(text)) expect(scheme).not.toBe('');
      },
    ),
    { numRuns: 1000 },
  );
});

/** A header block with the right sum over its bytes. */
function header(name: string, size: string, type: string, link: string): Buffer {
  const block = Buffer.alloc(512);
  block.write(name.slice(0, 100), 0, 'latin1');
  block.write(size.slice(0, 12), 124, 'latin1');
  block.write(type, 156, 'latin1');
  block.write(link.slice(0, 100), 157, 'latin1');
  block.write('ustar\0', 257, 'latin1');
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}

test('any archive is refused or its files lie within it', async () => {
  const names = fc.constantFrom('a', './a', 'd/../a', '../a', '/a', 'b', '');
  const sizes = fc.constantFrom(
    '0',
    '00000000001',
    '777777777777',
    '\x80\0\0\0\0\0\0\0\0\0\x02\0',
    'x',
  );
  const types = fc.constantFrom('0', '\0', '1', '2', '5', 'x', 'g', 'L', 'K', 'S');
  const block = fc.oneof(
    { weight: 4, arbitrary: fc.tuple(names, sizes, types, names).map((parts) => header(...parts)) },
    {
      weight: 1,
      arbitrary: fc
        .constantFrom('12 path=a\n', '20 size=1\n', '')
        .map((text) => Buffer.from(text.padEnd(512, '\0'))),
    },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 512 }).map((bytes) => Buffer.from(bytes)) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(block, { maxLength: 8 }), async (blocks) => {
      const bytes = Buffer.concat(blocks);
      await writeFile(path, bytes);
      await using handle = await open(path);
      const archive = await TarArchive.read(handle).catch((error) => {
        attempt(() => {
          throw error;
        }, 'VMF_IMAGE_INVALID');
      });
      for (const each of ['a', 'b']) {
        const span = archive?.find(each);
        if (span) expect(span.offsetBytes + span.sizeBytes).toBeLessThanOrEqual(bytes.length);
      }
    }),
    { numRuns: 300 },
  );
});
