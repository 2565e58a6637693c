// Scrubs of loaded snapshots: they read everything in the background, find what has changed on disk while clones live, and
// end when they are told to or their snapshot goes.
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ScrubProgress, Snapshot } from 'vmfork';
import { templateSnapshot } from '../helpers/kvm.js';
import { flip } from '../helpers/saved.js';

const FAST = { bytesPerSecond: 2 ** 40 };
/** A MiB takes 16 seconds: a scrub waits for its second part as long as anyone may look. */
const SLOW = { bytesPerSecond: 2 ** 16 };

const directory = mkdtempSync(join(tmpdir(), 'vmfork-scrub-'));
const at = (name: string) => join(directory, name);

beforeAll(async () => {
  await using root = await templateSnapshot();
  await root.save(at('base'));
  await using clone = await root.fork();
  await clone.writeFile('/tmp/kept', 'kept');
  await using frozen = await clone.snapshot();
  await frozen.save(at('top'), { base: root });
});
afterAll(() => rmSync(directory, { recursive: true }));

/** Where a byte of a memory file lies deep in it that is no hole. */
function deepOffset(path: string): number {
  const { size } = statSync(path);
  const fd = openSync(path, 'r');
  const page = Buffer.alloc(4096);
  let offset = size - page.length;
  while (offset > size / 2 && readSync(fd, page, 0, page.length, offset) && !page.some(Boolean)) {
    offset -= page.length;
  }
  closeSync(fd);
  return offset + page.findIndex(Boolean);
}

/** Resolves with the first progress of a scrub that then waits, and the scrub. */
async function begun(snapshot: Snapshot, signal?: AbortSignal) {
  let scrub: Promise<ScrubProgress> | undefined;
  const first = await new Promise<ScrubProgress>((resolve, reject) => {
    scrub = snapshot.scrub({ ...SLOW, signal, onProgress: resolve });
    scrub.catch(reject);
  });
  return { first, scrub: scrub as Promise<ScrubProgress> };
}

test('a scrub reads a whole chain and says how far it is', async () => {
  await using loaded = await Snapshot.load(at('top'));
  const seen: ScrubProgress[] = [];
  const end = await loaded.scrub({ ...FAST, onProgress: (progress) => seen.push(progress) });
  const totalBytes = 2 * statSync(at('base/memory')).size;
  expect(end).toMatchObject({ doneBytes: totalBytes, totalBytes });
  expect(seen.at(-1)).toEqual(end);
  const stored = (name: string) => statSync(at(`${name}/memory`)).blocks * 512;
  expect(end.readBytes).toBeGreaterThan(stored('base') / 2);
  expect(end.readBytes).toBeLessThan((stored('base') + stored('top')) * 1.5);
  for (const [index, { doneBytes, readBytes }] of seen.entries()) {
    const before = seen[index - 1] ?? { doneBytes: 0, readBytes: 0 };
    expect(doneBytes).toBeGreaterThan(before.doneBytes);
    expect(readBytes - before.readBytes).toBeLessThanOrEqual(2 ** 20);
  }
});

test('a scrub keeps to its rate while clones are forked and answer', async () => {
  await using loaded = await Snapshot.load(at('base'));
  const { readBytes } = await loaded.scrub(FAST);
  const bytesPerSecond = readBytes; // so that it takes a second, but for its last part
  const start = performance.now();
  const scrub = loaded.scrub({ bytesPerSecond });
  await using clone = await loaded.fork();
  await clone.ping();
  await scrub;
  expect(performance.now() - start).toBeGreaterThan((1 - 2 ** 20 / readBytes) * 1000 - 50);
});

for (const file of ['top/memory', 'base/memory']) {
  test(`a byte that changes in ${file} is found while clones live, and ends its forks`, async () => {
    await using loaded = await Snapshot.load(at('top'));
    await using clone = await loaded.fork();
    const offset = deepOffset(at(file));
    flip(at(file), offset);
    try {
      const chunk = Math.floor(offset / 2 ** 20) * 2 ** 20;
      const damaged = {
        code: 'VMF_SNAPSHOT_INVALID',
        message: expect.stringContaining(`${at(file)} is damaged between offsets ${chunk} and`),
      };
      await using before = await loaded.fork(); // Nobody knows yet.
      await using branch = await before.snapshot();
      await using ofBranch = await branch.fork();
      await expect(loaded.scrub(FAST)).rejects.toMatchObject(damaged);
      await expect(loaded.fork()).rejects.toMatchObject(damaged);
      await expect(loaded.fork({ count: 2 })).rejects.toMatchObject(damaged);
      await expect(before.reset()).rejects.toMatchObject(damaged);
      await expect(loaded.save(at('copy'))).rejects.toMatchObject(damaged);
      // What was frozen of its clones stands on it.
      await using later = await ofBranch.snapshot();
      for (const above of [branch, later]) {
        await expect(above.fork()).rejects.toMatchObject(damaged);
        await expect(above.save(at('copy'))).rejects.toMatchObject(damaged);
      }
      await expect(ofBranch.reset()).rejects.toMatchObject(damaged);
      await using frozen = await clone.snapshot();
      await expect(frozen.save(at('copy'), { base: loaded })).rejects.toMatchObject(damaged);
      for (const vm of [clone, before, ofBranch])
        expect(String(await vm.readFile('/tmp/kept'))).toBe('kept');
    } finally {
      flip(at(file), offset);
    }
    // It may have copies of what was wrong; one that is loaded now has not.
    await expect(loaded.fork()).rejects.toMatchObject({ code: 'VMF_SNAPSHOT_INVALID' });
    await using again = await Snapshot.load(at('top'));
    await again.scrub(FAST);
    await using healthy = await again.fork();
    expect(String(await healthy.readFile('/tmp/kept'))).toBe('kept');
  });
}

test('a scrub ends at once when its signal fires', async () => {
  await using loaded = await Snapshot.load(at('top'));
  const controller = new AbortController();
  const { first, scrub } = await begun(loaded, controller.signal);
  expect(first.doneBytes).toBeLessThan(first.totalBytes);
  controller.abort('enough');
  await expect(scrub).rejects.toMatchObject({ code: 'VMF_ABORTED', cause: 'enough' });
  await expect(loaded.scrub({ signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'VMF_ABORTED',
  });
  await expect(loaded.scrub({ ...SLOW, timeoutMs: 20 })).rejects.toMatchObject({
    code: 'VMF_TIMEOUT',
  });
  await using clone = await loaded.fork();
  await clone.ping();
});

test('a scrub ends at once when its snapshot is destroyed', async () => {
  const loaded = await Snapshot.load(at('top'));
  const { scrub } = await begun(loaded);
  await loaded.destroy();
  await expect(scrub).rejects.toMatchObject({ code: 'VMF_STATE' });
  await expect(loaded.scrub()).rejects.toMatchObject({ code: 'VMF_STATE' });
  const timers = process.getActiveResourcesInfo().filter((name) => name === 'Timeout');
  expect(timers.length).toBeLessThanOrEqual(1); // the runner's
});

test('what is not on disk, and wrong options, are refused', async () => {
  await using root = await templateSnapshot();
  await using clone = await root.fork();
  await using frozen = await clone.snapshot();
  await expect(frozen.scrub()).rejects.toMatchObject({ code: 'VMF_STATE' });
  for (const wrong of [{ bytesPerSecond: 1 }, { onProgress: 'x' }, { rate: 1 }]) {
    await expect(root.scrub(wrong as object)).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  }
});
