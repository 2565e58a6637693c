// The decoder of zstd for versions of Node without one: what the tool writes, what nobody honest writes, and that neither
// holds up the program.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { openLayerStream } from '#src/oci/layer-stream.js';
import { unpackZstd } from '#src/oci/zstd.js';
import { digestOf, noise, Scratch } from '../../helpers/oci/images.js';
import {
  block,
  endlessBlock,
  frameHeader,
  rawBlock,
  rleBlock,
  singleHeader,
} from './zstd-maker.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000 });

const scratch = new Scratch();
afterAll(() => scratch.remove());

const zstd = (bytes: Buffer, ...options: string[]): Buffer =>
  execFileSync('zstd', ['-q', '-c', ...options], { input: bytes, maxBuffer: 2 ** 28 });

async function* inPieces(bytes: Buffer, pieceBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

async function unpack(bytes: Buffer, pieceBytes = 65_536): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of unpackZstd(inPieces(bytes, pieceBytes))) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** A layer of a store that unpacks to something else, if it ever ends. */
function openLayer(packed: Buffer, signal?: AbortSignal): Promise<Readable> {
  const path = scratch.file('layer');
  writeFileSync(path, packed);
  const layer = { path, digest: digestOf(packed), diffId: digestOf(Buffer.of()) };
  return openLayerStream({ ...layer, compression: 'zstd' }, signal);
}

describe('what is in order', () => {
  const text = Buffer.concat([
    noise('a', 300_000),
    Buffer.alloc(500_000, 'ab'),
    noise('a', 300_000),
  ]);

  const levels = ['-1', '-19', '-19 --long=27', '--no-check', '--no-content-size', '-3 -B100KB'];
  test.each(levels)('what zstd %s writes is unpacked', async (options) => {
    const packed = zstd(text, ...options.split(' '));
    expect((await unpack(packed)).equals(text)).toBe(true);
    expect((await unpack(packed, 7)).equals(text)).toBe(true);
  });

  test('frames follow one another, empty ones and ones to be skipped too', async () => {
    const skipped = Buffer.concat([
      Buffer.from('5e2a4d18', 'hex'),
      Buffer.of(3, 0, 0, 0),
      noise('s', 3),
    ]);
    const tiny = Buffer.concat([frameHeader(10), rawBlock(Buffer.from('tiny'), true)]);
    const frames = [
      skipped,
      zstd(Buffer.of()),
      zstd(text),
      tiny,
      skipped,
      tiny,
      zstd(Buffer.from('end')),
    ];
    const expected = Buffer.concat([text, Buffer.from('tinytinyend')]);
    expect((await unpack(Buffer.concat(frames), 1000)).equals(expected)).toBe(true);
  });

  test('a stream of nothing is nothing', async () => {
    expect(await unpack(Buffer.of())).toEqual(Buffer.of());
  });
});

describe('what is not', () => {
  const end = rawBlock(Buffer.from('x'), true);
  const whole = zstd(noise('whole', 1000));
  test.each<[string, Buffer, string]>([
    ['a window of 256 MiB', Buffer.concat([frameHeader(28), end]), 'VMF_IMAGE_UNSUPPORTED'],
    ['the largest window', Buffer.concat([frameHeader(41), end]), 'VMF_IMAGE_UNSUPPORTED'],
    [
      'content of 2 GiB at once',
      Buffer.concat([singleHeader(2 ** 31), end]),
      'VMF_IMAGE_UNSUPPORTED',
    ],
    ['content of 2^63 bytes', Buffer.concat([singleHeader(2 ** 63), end]), 'VMF_IMAGE_UNSUPPORTED'],
    ['a dictionary', Buffer.concat([frameHeader(20, 1, 7), end]), 'VMF_IMAGE_UNSUPPORTED'],
    ['a reserved bit', Buffer.concat([frameHeader(20, 8), end]), 'VMF_IMAGE_INVALID'],
    [
      'a block of a reserved type',
      Buffer.concat([frameHeader(20), block(3, end)]),
      'VMF_IMAGE_INVALID',
    ],
    [
      'a block beyond 128 KiB',
      Buffer.concat([frameHeader(20), rleBlock(131_073)]),
      'VMF_IMAGE_INVALID',
    ],
    [
      'a block beyond its window',
      Buffer.concat([frameHeader(10), rleBlock(1025)]),
      'VMF_IMAGE_INVALID',
    ],
    [
      'a block that is none',
      Buffer.concat([frameHeader(20), block(2, noise('n', 99), true)]),
      'VMF_IMAGE_INVALID',
    ],
    ['no end', Buffer.concat([frameHeader(20), rleBlock(9)]), 'VMF_IMAGE_INVALID'],
    ['half a checksum', whole.subarray(0, whole.length - 2), 'VMF_IMAGE_INVALID'],
    ['half a header', whole.subarray(0, 5), 'VMF_IMAGE_INVALID'],
    ['another magic number', Buffer.from('PK\x03\x04 and more'), 'VMF_IMAGE_INVALID'],
  ])('%s is refused', async (_, packed, code) => {
    await expect(unpack(packed)).rejects.toMatchObject({
      code,
      message: expect.stringContaining('zstd: '),
    });
  });
});

describe('what takes long', () => {
  const endless = Buffer.concat([frameHeader(17), endlessBlock()]);

  test('a block that copies for a minute is left when the signal fires', async () => {
    const aborter = new AbortController();
    const stream = await openLayer(endless, aborter.signal);
    const reading = stream.toArray();
    // Only a thread of JavaScript that is free gets there.
    setTimeout(() => aborter.abort(new Error('enough')), 100);
    await expect(reading).rejects.toMatchObject({ code: 'VMF_ABORTED' });
  });

  test('it is left when nobody reads any more', async () => {
    const stream = await openLayer(endless);
    stream.once('error', () => {});
    stream.resume();
    setTimeout(() => stream.destroy(), 100);
    await once(stream, 'close');
    expect(process.getActiveResourcesInfo()).not.toContain('Worker');
  });

  test('blocks of one byte in a large window let others have their turn', async () => {
    const blocks = Array.from({ length: 64 }, (_, at) => rleBlock(1, at === 63));
    let turns = 0;
    const count = () => {
      turns++;
      next = setImmediate(count);
    };
    let next = setImmediate(count);
    const unpacked = await unpack(Buffer.concat([frameHeader(23), ...blocks]));
    clearImmediate(next);
    expect(unpacked).toEqual(Buffer.alloc(64, 'A'));
    expect(turns).toBeGreaterThanOrEqual(8);
  });
});
