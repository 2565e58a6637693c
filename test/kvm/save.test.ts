// Snapshots on disk: they come back whole, or are refused with the reason.
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { Snapshot } from 'vmfork';
import { destroyAll, templateSnapshot } from '../helpers/kvm.js';

const SECTION_HEADER_BYTES = 16;
const FILE_HEADER_BYTES = 16;
const directory = mkdtempSync(join(tmpdir(), 'vmfork-save-'));
const saved = join(directory, 'saved');
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
  await using clone = await snapshot.fork();
  await clone.writeFile('/tmp/kept', 'kept');
  await using prepared = await clone.snapshot();
  await prepared.save(saved);
});
afterAll(async () => {
  await snapshot?.destroy();
  rmSync(directory, { recursive: true });
});

test('a loaded snapshot forks like the one that was saved', async () => {
  await using loaded = await Snapshot.load(saved);
  expect(loaded.metadata.agent).toEqual(snapshot.metadata.agent);
  expect(loaded.info.memoryBytes).toBe(snapshot.info.memoryBytes);
  const clones = await loaded.fork({ count: 3 });
  for (const clone of clones) {
    expect(String(await clone.readFile('/tmp/kept'))).toBe('kept');
    expect((await clone.exec(['ls', '/usr/bin/busybox'])).exitCode).toBe(0);
  }
  await destroyAll(clones);
});

test('the memory file is sparse, and loading reads little of it', () => {
  const { size, blocks } = statSync(join(saved, 'memory'));
  expect(size).toBe(128 * 1024 * 1024);
  expect(blocks * 512).toBeLessThan(size / 2);
});

test('what was saved from a loaded one loads again', async () => {
  await using loaded = await Snapshot.load(saved);
  await loaded.save(join(directory, 'again'));
  await using again = await Snapshot.load(join(directory, 'again'));
  await using clone = await again.fork();
  expect(String(await clone.readFile('/tmp/kept'))).toBe('kept');
});

test('an existing directory is never overwritten, and nothing is left beside it', async () => {
  await expect(snapshot.save(saved)).rejects.toMatchObject({ code: 'VMF_SYSTEM' });
  const others = readdirSync(directory).filter((name) => !['saved', 'again'].includes(name));
  expect(others).toEqual([]);
});

describe('refused with the reason', () => {
  const state = () => readFileSync(join(saved, 'state'));

  /** A copy of the snapshot with another state. */
  function altered(name: string, bytes: Uint8Array): string {
    const copy = join(directory, name);
    cpSync(saved, copy, { recursive: true });
    writeFileSync(join(copy, 'state'), bytes);
    return copy;
  }

  async function expectRefused(
    copy: string,
    code: string | RegExp = 'VMF_SNAPSHOT_INVALID',
  ): Promise<string> {
    const error = await Snapshot.load(copy).catch((reason) => reason);
    rmSync(copy, { recursive: true });
    expect(error.code).toMatch(code);
    return error.message;
  }

  function sections(bytes: Buffer): { offset: number; tag: number; length: number }[] {
    const found = [];
    for (let offset = FILE_HEADER_BYTES; offset < bytes.length; ) {
      const length = Number(bytes.readBigUInt64LE(offset + 8));
      found.push({ offset, tag: bytes.readUInt32LE(offset), length });
      offset += SECTION_HEADER_BYTES + length;
    }
    return found;
  }

  test('a flipped byte in the header and in every section', async () => {
    const good = state();
    const places = [
      0,
      12,
      ...sections(good).flatMap(({ offset, length }) => [
        offset,
        offset + SECTION_HEADER_BYTES + (length >> 1),
      ]),
    ];
    expect(places.length).toBeGreaterThan(14);
    for (const place of places) {
      const bytes = Buffer.from(good);
      bytes.writeUInt8(bytes.readUInt8(place) ^ 0x40, place);
      await expectRefused(altered(`flip-${place}`, bytes));
    }
  });

  test('a state cut off anywhere', async () => {
    const good = state();
    for (const { offset } of sections(good)) {
      for (const length of [offset, offset + 7]) {
        await expectRefused(altered(`cut-${length}`, good.subarray(0, length)));
      }
    }
    await expectRefused(altered('empty', Buffer.alloc(0)));
  });

  test('another format version', async () => {
    const copy = altered('version', state());
    const manifest = readFileSync(join(copy, 'manifest'));
    manifest.writeUInt32LE(99, 8);
    writeFileSync(join(copy, 'manifest'), manifest);
    expect(await expectRefused(copy, 'VMF_SNAPSHOT_INCOMPATIBLE')).toMatch(/99/);
  });

  test('a memory file that is shorter or missing', async () => {
    const copy = altered('short', state());
    truncateSync(join(copy, 'memory'), 4096);
    await expectRefused(copy);
    const without = altered('without', state());
    rmSync(join(without, 'memory'));
    await expectRefused(without, /VMF_SNAPSHOT_INVALID|VMF_SYSTEM/);
  });

  test('a directory that is not there', async () => {
    await expect(Snapshot.load(join(directory, 'absent'))).rejects.toMatchObject({
      code: expect.stringMatching(/VMF_SNAPSHOT_INVALID|VMF_SYSTEM/),
      message: expect.stringContaining('absent'),
    });
  });
});

describe('Snapshot.cached()', () => {
  test('takes what is there, replaces what is damaged, and removes what is outdated', async () => {
    const cache = mkdtempSync(join(tmpdir(), 'vmfork-cache-'));
    const { cacheDirectory } = await import('#src/kvm/guest.js');
    cpSync(join(cacheDirectory(), 'guest'), join(cache, 'guest'), {
      recursive: true,
      preserveTimestamps: true,
    });
    vi.stubEnv('VMFORK_CACHE_DIR', cache);
    const templates = join(cache, 'templates');
    try {
      const first = await templateSnapshot();
      const [name = ''] = readdirSync(templates);
      expect(readdirSync(templates)).toEqual([name]);
      const again = await templateSnapshot();
      expect(again.metadata).toEqual(first.metadata);
      writeFileSync(join(templates, name, 'state'), 'damaged');
      cpSync(join(templates, name), join(templates, name.replace(/-.*/, '-0000000000000000')), {
        recursive: true,
      });
      const replaced = await templateSnapshot();
      expect(replaced.metadata.createdAt).not.toBe(first.metadata.createdAt);
      expect(readdirSync(templates)).toEqual([name]);
      await using clone = await replaced.fork();
      await clone.ping();
      for (const one of [first, again, replaced]) await one.destroy();
    } finally {
      vi.unstubAllEnvs();
      rmSync(cache, { recursive: true });
    }
  });
});
