// The cache of built guest parts: built once, whole or absent, and clean after a builder died.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';

interface Part {
  cacheDir: string;
  name: string;
  key: string;
  onProgress: (line: string) => void;
}
interface Cache {
  cached(
    part: Part,
    build: (folder: string) => Promise<void>,
  ): Promise<{ folder: string; cached: boolean }>;
}
const script = new URL('../../../guest/lib/cache.mjs', import.meta.url).href;
const { cached } = (await import(script)) as Cache;

let cacheDir: string;
beforeEach(() => {
  cacheDir = mkdtempSync(join(tmpdir(), 'vmfork-cache-'));
});
afterEach(() => rmSync(cacheDir, { recursive: true }));

const part = (onProgress: (line: string) => void = () => {}): Part => ({
  cacheDir,
  name: 'part',
  key: 'ab'.repeat(32),
  onProgress,
});

test('two builders at once build once and get the same folder', async () => {
  const lines: string[] = [];
  let builds = 0;
  const build = async (folder: string) => {
    builds++;
    await sleep(50);
    writeFileSync(join(folder, 'file'), 'content');
  };
  const [first, second] = await Promise.all([
    cached(part(), build),
    cached(
      part((line) => lines.push(line)),
      build,
    ),
  ]);

  expect(builds).toBe(1);
  expect([first.cached, second.cached]).toEqual([false, true]);
  expect(existsSync(join(second.folder, 'file'))).toBe(true);
  expect(lines).toEqual(['part: another process builds it, waiting']);
});

test('a failed build leaves nothing behind, and the next one starts afresh', async () => {
  const fail = async (folder: string) => {
    writeFileSync(join(folder, 'half'), '');
    throw new Error('no compiler');
  };
  await expect(cached(part(), fail)).rejects.toThrow('no compiler');
  expect(readdirSync(join(cacheDir, 'guest'))).toEqual([]);

  const result = await cached(part(), async () => {});
  expect(readdirSync(result.folder)).toEqual([]);
});

test('takes over from a builder that was killed, and removes its work folder', async () => {
  const parent = join(cacheDir, 'guest');
  const final = join(parent, `part-${'ab'.repeat(16)}`);
  mkdirSync(join(parent, 'other-key.tmp'), { recursive: true });
  mkdirSync(`${final}.tmp`);
  // This process’s id with another start time: an id that is in use again.
  writeFileSync(`${final}.lock`, `${process.pid} 1`);

  const result = await cached(part(), async () => {});

  expect(result.cached).toBe(false);
  expect(readdirSync(parent)).toEqual([`part-${'ab'.repeat(16)}`]);
});
