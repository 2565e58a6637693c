// Differences on disk: a chain of saved snapshots is one snapshot, in this process and in others; changes to its files are
// found; keys keep out what others made; working sets are kept.
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Clone, Snapshot } from 'vmfork';
import { eventually, templateSnapshot } from '../helpers/kvm.js';
import { flip } from '../helpers/saved.js';

const DEPTH = 4;
const directory = mkdtempSync(join(tmpdir(), 'vmfork-chain-'));
const at = (name: string) => join(directory, name);
let root: Snapshot;

beforeAll(async () => {
  root = await templateSnapshot();
  await root.save(at('0'));
  let last = root;
  for (let i = 1; i <= DEPTH; i++) {
    await using clone = await last.fork();
    await clone.writeFile(`/tmp/${i}`, `level ${i}`);
    const next = await clone.snapshot();
    await next.save(at(String(i)), { base: last });
    if (last !== root) await last.destroy();
    last = next;
  }
  await last.destroy();
});
afterAll(async () => {
  await root?.destroy();
  rmSync(directory, { recursive: true });
});

const bytesOnDisk = (path: string) => statSync(path).blocks * 512;

async function expectLevels(snapshot: Snapshot): Promise<void> {
  await using clone = await snapshot.fork();
  for (let i = 1; i <= DEPTH; i++) {
    expect(String(await clone.readFile(`/tmp/${i}`))).toBe(`level ${i}`);
  }
}

/** The size of all ranges of a working set: pairs of offset and size behind a header of 52 bytes. */
function keptBytes(path: string): number {
  const bytes = readFileSync(path);
  let sum = 0;
  for (let at = 52 + 8; at < bytes.length; at += 16) sum += Number(bytes.readBigUInt64LE(at));
  return sum;
}

test('a chain holds what each level has added, and only that', async () => {
  for (let i = 1; i <= DEPTH; i++) {
    expect(bytesOnDisk(at(`${i}/memory`))).toBeLessThan(bytesOnDisk(at('0/memory')) / 3);
  }
  await using loaded = await Snapshot.load(at(String(DEPTH)));
  await expectLevels(loaded);
  await loaded.verify();
});

test('what is forked from a loaded chain is saved on it by its directory', async () => {
  await using loaded = await Snapshot.load(at(String(DEPTH)));
  await using clone = await loaded.fork();
  await clone.writeFile('/tmp/more', 'more');
  await using frozen = await clone.snapshot();
  const saved = await frozen.save(at('more'), { base: at(String(DEPTH)) });
  expect(saved.layers).toBeGreaterThan(1);
  expect(saved.memoryBytes).toBeLessThan(bytesOnDisk(at('0/memory')) / 3);
  await using again = await Snapshot.load(at('more'));
  await expectLevels(again);
  await using grandchild = await again.fork();
  expect(String(await grandchild.readFile('/tmp/more'))).toBe('more');
});

test('a chain that was moved as a whole loads in another process', async () => {
  const names = readdirSync(directory);
  mkdirSync(at('moved'));
  for (const name of names) renameSync(at(name), at(join('moved', name)));
  try {
    const args = ['test/kvm/fixtures/load-saved.mjs', at(`moved/${DEPTH}`), '/tmp/1'];
    const { stdout } = await promisify(execFile)(process.execPath, args);
    expect(stdout).toBe('level 1\n');
  } finally {
    for (const name of names) renameSync(at(join('moved', name)), at(name));
    rmSync(at('moved'), { recursive: true });
  }
});

test('a base that is missing or another one is named', async () => {
  renameSync(at('0'), at('gone'));
  try {
    const missing = { code: 'VMF_SNAPSHOT_INVALID', message: expect.stringContaining(at('0')) };
    await expect(Snapshot.load(at('1'))).rejects.toMatchObject(missing);
    await root.save(at('0'));
    // The same memory under another name is another snapshot only when its content differs.
    await (await Snapshot.load(at('1'))).destroy();
    rmSync(at('0'), { recursive: true });
    await using clone = await root.fork();
    await using other = await clone.snapshot();
    await other.save(at('0'));
    await expect(Snapshot.load(at('1'))).rejects.toMatchObject(missing);
  } finally {
    rmSync(at('0'), { recursive: true, force: true });
    renameSync(at('gone'), at('0'));
  }
});

test('a snapshot is saved only on what is on disk', async () => {
  await using clone = await root.fork();
  await using first = await clone.snapshot();
  await using second = await clone.snapshot();
  await expect(second.save(at('x'), { base: first })).rejects.toMatchObject({ code: 'VMF_STATE' });
  await expect(second.verify()).rejects.toMatchObject({ code: 'VMF_STATE' });
  await expect(second.save(at('x'), { base: at('absent') })).rejects.toMatchObject({
    code: 'VMF_SNAPSHOT_INVALID',
  });
  for (const base of [{}, 5, '']) {
    await expect(second.save(at('x'), { base: base as string })).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
    });
  }
});

test('verify names the file and the place of a change, in a base too', async () => {
  await using loaded = await Snapshot.load(at(String(DEPTH)));
  const holes = statSync(at('0/memory')).size;
  for (const offset of [0, holes >> 1, holes - 1]) {
    flip(at('0/memory'), offset);
    const chunk = Math.floor(offset / 2 ** 20) * 2 ** 20;
    await expect(loaded.verify()).rejects.toMatchObject({
      code: 'VMF_SNAPSHOT_INVALID',
      message: expect.stringContaining(`${at('0/memory')} is damaged between offsets ${chunk} and`),
    });
    flip(at('0/memory'), offset);
  }
  await loaded.verify();
  await expect(loaded.verify({ signal: AbortSignal.abort() })).rejects.toMatchObject({
    code: 'VMF_ABORTED',
  });
});

test('a key keeps out what was saved without it', async () => {
  const key = randomBytes(32);
  await root.save(at('locked'), { key });
  await (await Snapshot.load(at('locked'), { key })).destroy();
  await (await Snapshot.load(at('locked'))).destroy();
  const refused = { code: 'VMF_SNAPSHOT_INVALID' };
  await expect(Snapshot.load(at('locked'), { key: randomBytes(32) })).rejects.toMatchObject(
    refused,
  );
  await expect(Snapshot.load(at('0'), { key })).rejects.toMatchObject({
    ...refused,
    message: expect.stringContaining('saved without a key'),
  });
  // With a base: its identity is part of what is authenticated.
  await using clone = await root.fork();
  await using branch = await clone.snapshot();
  await branch.save(at('branch'), { base: root, key });
  await (await Snapshot.load(at('branch'), { key })).destroy();
  for (const wrong of [randomBytes(31), 'text']) {
    await expect(root.save(at('y'), { key: wrong as Buffer })).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
    });
  }
});

test('scratch disks are part of a difference', async () => {
  await using clone = await root.fork();
  await clone.attachDisk(1, { scratchBytes: 2 ** 20 });
  const shell = async (vm: Clone, line: string) => (await vm.exec(['sh', '-c', line])).stdout;
  // The guest finds the disk in its own time.
  const size = () => shell(clone, 'cat /sys/block/vdc/size');
  expect(await eventually(async () => Number(await size()) > 0, 10_000)).toBe(true);
  await shell(clone, 'echo written | dd of=/dev/vdc conv=fsync');
  await using frozen = await clone.snapshot();
  await root.save(at('base'));
  await frozen.save(at('disk'), { base: root });
  await using loaded = await Snapshot.load(at('disk'));
  await loaded.verify();
  await using again = await loaded.fork();
  const line = 'echo 3 > /proc/sys/vm/drop_caches; head -n 1 /dev/vdc';
  expect(await shell(again, line)).toBe('written\n');
  flip(at('disk/disk1'), 100);
  await expect(loaded.verify()).rejects.toMatchObject({
    message: expect.stringContaining(at('disk/disk1')),
  });
});

test('a working set is recorded beside the snapshot and read ahead', async () => {
  await using loaded = await Snapshot.load(at('2'));
  await using clone = await loaded.fork();
  await clone.ping();
  const before = await clone.memory();
  await loaded.recordWorkingSet(clone);
  const after = await clone.memory();
  const kept = keptBytes(at('2/working-set'));
  expect(kept).toBeGreaterThanOrEqual(before.residentBytes);
  expect(kept).toBeLessThanOrEqual(after.residentBytes);
  await using ready = await Snapshot.load(at('2'), { prefetch: true });
  await using again = await ready.fork();
  await again.ping();
  await expect(root.recordWorkingSet(clone)).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  flip(at('2/working-set'), 60);
  await expect(Snapshot.load(at('2'), { prefetch: true })).rejects.toMatchObject({
    code: 'VMF_SNAPSHOT_INVALID',
  });
});
