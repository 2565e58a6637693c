// The cache of built guest parts: built once, whole or absent, and clean after a builder died.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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

const folderName = `part-${'ab'.repeat(16)}`;

test('two builders at once build once and get the same folder', async () => {
  const lines: string[] = [];
  let builds = 0;
  let go = () => {};
  const otherWaits = new Promise<void>((resolve) => {
    go = resolve;
  });
  const build = async (folder: string) => {
    builds++;
    await otherWaits;
    writeFileSync(join(folder, 'file'), 'content');
  };
  const onProgress = (line: string) => {
    lines.push(line);
    go();
  };
  const [first, second] = await Promise.all([
    cached(part(onProgress), build),
    cached(part(onProgress), build),
  ]);

  expect(builds).toBe(1);
  expect([first.cached, second.cached].sort()).toEqual([false, true]);
  expect(existsSync(join(second.folder, 'file'))).toBe(true);
  expect(lines).toEqual(['part: another process builds it, waiting']);
});

test('a failed build leaves nothing behind, and the next one starts afresh', async () => {
  const fail = async (folder: string) => {
    writeFileSync(join(folder, 'half'), '');
    throw new Error('no compiler');
  };
  await expect(cached(part(), fail)).rejects.toThrow('no compiler');
  expect(readdirSync(join(cacheDir, 'guest'))).toEqual(['part.lock']);

  const result = await cached(part(), async () => {});
  expect(readdirSync(result.folder)).toEqual([]);
});

test('takes over from a builder that was killed, and removes its work folder', async () => {
  const parent = join(cacheDir, 'guest');
  const builder = `const { cached } = await import(${JSON.stringify(script)});
    const part = JSON.parse(process.argv[1]);
    await cached({ ...part, onProgress() {} }, async () => {
      console.log('builds');
      await new Promise((resolve) => setTimeout(resolve, 60_000));
    });`;
  const args = ['--input-type=module', '-e', builder, JSON.stringify(part())];
  const killed = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(killed.stdout, 'data');
  mkdirSync(join(parent, 'other-ab.tmp'));
  const left = [`${folderName}.tmp`, 'other-ab.tmp', 'part.lock'];
  expect(readdirSync(parent).sort()).toEqual(left.sort());
  killed.kill('SIGKILL');

  const result = await cached(part(), async () => {});

  expect(result.cached).toBe(false);
  // Another part has a lock of its own.
  expect(readdirSync(parent).sort()).toEqual(['other-ab.tmp', folderName, 'part.lock'].sort());
});
