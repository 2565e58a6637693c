// Snapshots on disk: they come back whole, or are refused with the reason.
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type LoadOptions, Snapshot } from 'vmfork';
import { destroyAll, templateSnapshot } from '../helpers/kvm.js';
import {
  copySaved,
  editMetadata,
  replaceState,
  SECTION_HEADER_BYTES,
  sectionsOf,
} from '../helpers/saved.js';

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
  const manifest = () => readFileSync(join(saved, 'manifest'));

  /** A copy of the snapshot with one file replaced. */
  function altered(name: string, file: 'state' | 'manifest', bytes: Uint8Array): string {
    const copy = copySaved(saved, join(directory, name));
    writeFileSync(join(copy, file), bytes);
    return copy;
  }

  async function expectRefused(
    copy: string,
    code: string | RegExp = 'VMF_SNAPSHOT_INVALID',
    options: LoadOptions = {},
  ): Promise<string> {
    const error = await Snapshot.load(copy, options).catch((reason) => reason);
    rmSync(copy, { recursive: true });
    expect(error.code).toMatch(code);
    return error.message;
  }

  function flipped(bytes: Buffer, place: number): Buffer {
    const copy = Buffer.from(bytes);
    copy.writeUInt8(copy.readUInt8(place) ^ 0x40, place);
    return copy;
  }

  test('a flipped byte in the header and in every section of the state', async () => {
    const good = state();
    const places = [
      0,
      12,
      ...sectionsOf(good).flatMap(({ offset, length }) => [
        offset,
        offset + SECTION_HEADER_BYTES + (length >> 1),
      ]),
    ];
    expect(places.length).toBeGreaterThan(14);
    for (const place of places) {
      const bytes = flipped(good, place);
      await expectRefused(altered(`flip-${place}`, 'state', bytes));
      // The state's own checksums find it too.
      const followed = copySaved(saved, join(directory, `followed-${place}`));
      replaceState(followed, bytes);
      await expectRefused(followed);
    }
  });

  test('a flipped byte anywhere in the manifest', async () => {
    const good = manifest();
    for (let place = 0; place < good.length; place += 97) {
      const code = place >= 8 && place < 12 ? 'VMF_SNAPSHOT_INCOMPATIBLE' : 'VMF_SNAPSHOT_INVALID';
      await expectRefused(altered(`flip-${place}`, 'manifest', flipped(good, place)), code);
    }
  });

  test('a state or manifest that is cut off', async () => {
    const good = state();
    for (const { offset } of sectionsOf(good)) {
      for (const length of [offset, offset + 7]) {
        await expectRefused(altered(`cut-${length}`, 'state', good.subarray(0, length)));
      }
    }
    const { length } = manifest();
    for (const kept of [0, 7, 15, 40, length >> 1, length - 1]) {
      const bytes = manifest().subarray(0, kept);
      await expectRefused(altered(`cut-${kept}`, 'manifest', bytes));
    }
    await expectRefused(altered('empty', 'state', Buffer.alloc(0)));
  });

  test('another format version', async () => {
    const bytes = manifest();
    bytes.writeUInt32LE(99, 8);
    const copy = altered('version', 'manifest', bytes);
    expect(await expectRefused(copy, 'VMF_SNAPSHOT_INCOMPATIBLE')).toMatch(/99/);
  });

  test('an agent of another generation, other metadata, and another guest than asked for', async () => {
    const future = copySaved(saved, join(directory, 'future'));
    editMetadata(future, ({ agent }) => {
      agent.generation = 77;
    });
    expect(await expectRefused(future, 'VMF_SNAPSHOT_INCOMPATIBLE')).toMatch(/generation 77/);
    const format = copySaved(saved, join(directory, 'format'));
    editMetadata(format, (metadata) => {
      metadata.format = 5;
    });
    expect(await expectRefused(format, 'VMF_SNAPSHOT_INCOMPATIBLE')).toMatch(/format 5/);
    const { guest } = snapshot.metadata;
    const other = copySaved(saved, join(directory, 'other'));
    await (await Snapshot.load(other, { guest })).destroy();
    const message = await expectRefused(other, 'VMF_SNAPSHOT_INCOMPATIBLE', { guest: 'mine' });
    expect(message).toContain(`made from guest ${guest}, not from mine`);
  });

  test('a memory file that is shorter or missing, and a missing manifest', async () => {
    const copy = copySaved(saved, join(directory, 'short'));
    rmSync(join(copy, 'memory'));
    writeFileSync(join(copy, 'memory'), Buffer.alloc(4096));
    await expectRefused(copy);
    for (const name of ['memory', 'manifest', 'state']) {
      const without = copySaved(saved, join(directory, `without-${name}`));
      rmSync(join(without, name));
      expect(await expectRefused(without)).toContain(name);
    }
  });

  test('a directory that is not there', async () => {
    await expect(Snapshot.load(join(directory, 'absent'))).rejects.toMatchObject({
      code: 'VMF_SNAPSHOT_INVALID',
      message: expect.stringContaining('absent'),
    });
  });
});

describe('Snapshot.cached()', () => {
  test('takes what is there, replaces what is damaged, and removes what is outdated', async () => {
    const cache = mkdtempSync(join(tmpdir(), 'vmfork-cache-'));
    const { cacheDirectory } = await import('#src/kvm/guest.js');
    const { entryNames } = await import('#src/kvm/template-cache.js');
    cpSync(join(cacheDirectory(), 'guest'), join(cache, 'guest'), {
      recursive: true,
      preserveTimestamps: true,
    });
    vi.stubEnv('VMFORK_CACHE_DIR', cache);
    const templates = join(cache, 'templates');
    try {
      await using old = await Snapshot.load(saved);
      const { family, member } = await entryNames({});
      const name = `${family}-${member}`;
      cpSync(saved, join(templates, `${family}-0000000000000000`), { recursive: true });
      cpSync(saved, join(templates, name), { recursive: true });
      writeFileSync(join(templates, name, 'state'), 'damaged');
      const [replaced, same] = await Promise.all([templateSnapshot(), templateSnapshot()]);
      expect(same.metadata).toEqual(replaced.metadata);
      expect(replaced.metadata.createdAt).not.toBe(old.metadata.createdAt);
      expect(readdirSync(templates)).toEqual([name]);
      const again = await Snapshot.cached({ memoryMiB: 128, consoleBytes: 4096 });
      expect(again.metadata).toEqual(replaced.metadata);
      await using clone = await replaced.fork();
      await clone.ping();
      for (const one of [replaced, same, again]) await one.destroy();
    } finally {
      vi.unstubAllEnvs();
      rmSync(cache, { recursive: true });
    }
  });
});
