// Disks that come and go: attached to clones after their fork, frozen with them, saved, and apart from each other.
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Clone, Snapshot } from 'vmfork';
import { destroyAll, eventually, scratchBytes, templateSnapshot } from '../helpers/kvm.js';

const SECTOR = 512;
const MIB = 1024 * 1024;
const IMAGE = { drive: 0, name: 'vdb' };
const SCRATCH = { drive: 1, name: 'vdc' };
const directory = mkdtempSync(join(tmpdir(), 'vmfork-disk-'));
const image = makeImage('image', MIB / 4);
const other = makeImage('other', MIB / 8);
let snapshot: Snapshot;

beforeAll(async () => {
  snapshot = await templateSnapshot();
});
afterAll(async () => {
  await snapshot?.destroy();
  rmSync(directory, { recursive: true });
});

function makeImage(name: string, size: number): { path: string; size: number; hash: string } {
  const path = join(directory, name);
  const content = randomBytes(size);
  writeFileSync(path, content);
  return { path, size, hash: createHash('md5').update(content).digest('hex') };
}

/** Resolves when the guest has found a disk of this size. */
async function expectSize(clone: Clone, disk: { name: string }, size: number): Promise<void> {
  const sectors = String(size / SECTOR);
  const path = `/sys/block/${disk.name}/size`;
  const fits = async () => (await clone.readFile(path)).toString().trim() === sectors;
  expect(await eventually(fits, 30_000)).toBe(true);
}

async function hashOf(clone: Clone, disk: { name: string }): Promise<string> {
  const { stdout } = await clone.exec(['md5sum', `/dev/${disk.name}`]);
  return stdout.split(' ')[0] ?? '';
}

/** Runs a line of shell in the guest; its output. */
async function shell(clone: Clone, line: string): Promise<string> {
  const { stdout, stderr, exitCode } = await clone.exec(['sh', '-c', line]);
  expect(exitCode, stderr).toBe(0);
  return stdout.trim();
}

test('a clone gets a disk after its fork, gives it back, and gets another', async () => {
  await using clone = await snapshot.fork();
  await expectSize(clone, IMAGE, 0);
  await clone.attachDisk(IMAGE.drive, { path: image.path, serial: 'first' });
  await expectSize(clone, IMAGE, image.size);
  expect(await hashOf(clone, IMAGE)).toBe(image.hash);
  expect(String(await clone.readFile(`/sys/block/${IMAGE.name}/serial`))).toContain('first');
  await clone.detachDisk(IMAGE.drive);
  await expectSize(clone, IMAGE, 0);
  await clone.attachDisk(IMAGE.drive, { path: other.path });
  await expectSize(clone, IMAGE, other.size);
  expect(await hashOf(clone, IMAGE)).toBe(other.hash);
});

test('what cannot be attached or detached says why', async () => {
  await using clone = await snapshot.fork();
  const attach = (drive: number, disk: object) => clone.attachDisk(drive, disk);
  const refused = (pattern: RegExp) => ({
    code: 'VMF_DISK',
    message: expect.stringMatching(pattern),
  });
  const odd = join(directory, 'odd');
  writeFileSync(odd, 'x'.repeat(700));
  await expect(attach(0, { path: '/nowhere/disk' })).rejects.toMatchObject(
    refused(/nowhere.*ENOENT/),
  );
  await expect(attach(0, { path: directory })).rejects.toMatchObject(refused(/regular file/));
  await expect(attach(0, { path: odd })).rejects.toMatchObject(refused(/700 bytes/));
  await expect(attach(0, { path: image.path, readOnly: false })).rejects.toMatchObject(
    refused(/read-only/),
  );
  await expect(attach(0, { scratchBytes: MIB })).rejects.toMatchObject(refused(/read-only/));
  await expect(attach(1, { scratchBytes: 700 })).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  await expect(attach(2, { scratchBytes: MIB })).rejects.toMatchObject({ code: 'VMF_OPTIONS' });
  await expect(clone.detachDisk(0)).rejects.toMatchObject(refused(/empty/));
  await attach(0, { path: image.path });
  await expect(attach(0, { path: other.path })).rejects.toMatchObject(refused(/in use/));
  await clone.destroy();
  await expect(attach(0, { path: image.path })).rejects.toMatchObject({ code: 'VMF_GONE' });
});

test('a scratch disk holds what is written until it is discarded, and goes with its clone', async () => {
  const clone = await snapshot.fork();
  await clone.attachDisk(SCRATCH.drive, { scratchBytes: 4 * MIB });
  await expectSize(clone, SCRATCH, 4 * MIB);
  expect(scratchBytes()).toEqual([0]);
  await clone.writeFile('/tmp/pattern', randomBytes(MIB / 4));
  const sums = await shell(
    clone,
    `dd if=/tmp/pattern of=/dev/vdc bs=64k seek=8 conv=fsync 2>/dev/null &&
     echo 3 > /proc/sys/vm/drop_caches &&
     dd if=/dev/vdc bs=64k skip=8 count=4 2>/dev/null | cmp - /tmp/pattern && echo same`,
  );
  expect(sums).toBe('same');
  expect(scratchBytes()).toEqual([MIB / 4]);
  await shell(clone, 'blkdiscard /dev/vdc && cmp -n 786432 -s /dev/vdc /dev/zero');
  expect(scratchBytes()).toEqual([0]);
  await clone.destroy();
  expect(scratchBytes()).toEqual([]);
});

test('clones of a frozen clone share its image and have a scratch disk each', async () => {
  await using source = await snapshot.fork();
  await source.attachDisk(IMAGE.drive, { path: image.path });
  await source.attachDisk(SCRATCH.drive, { scratchBytes: 16 * MIB });
  await expectSize(source, SCRATCH, 16 * MIB);
  await shell(source, 'echo frozen | dd of=/dev/vdc conv=fsync 2>/dev/null');
  await using frozen = await source.snapshot();
  await shell(source, 'echo source | dd of=/dev/vdc conv=fsync 2>/dev/null');
  const clones = await frozen.fork({ count: 5 });
  const [first, second] = clones as [Clone, Clone];
  const opened = readdirSync('/proc/self/fd').filter((fd) => linkOf(fd) === image.path);
  expect(opened.length).toBe(1);
  await shell(first, 'echo first | dd of=/dev/vdc conv=fsync 2>/dev/null');
  for (const clone of clones) expect(await hashOf(clone, IMAGE)).toBe(image.hash);
  const line = 'echo 3 > /proc/sys/vm/drop_caches; head -n 1 /dev/vdc';
  expect(await shell(first, line)).toBe('first');
  expect(await shell(second, line)).toBe('frozen');
  expect(await shell(source, line)).toBe('source');
  await destroyAll(clones);
});

test('a saved snapshot brings its disks, or is refused when an image has changed', async () => {
  const saved = join(directory, 'saved');
  const own = makeImage('own', MIB / 8);
  {
    await using source = await snapshot.fork();
    await source.attachDisk(IMAGE.drive, { path: own.path, serial: 'own' });
    await source.attachDisk(SCRATCH.drive, { scratchBytes: 16 * MIB });
    await expectSize(source, SCRATCH, 16 * MIB);
    await shell(source, 'echo saved | dd of=/dev/vdc conv=fsync 2>/dev/null');
    await using frozen = await source.snapshot();
    await frozen.save(saved);
  }
  expect(statSync(join(saved, 'disk1')).blocks * SECTOR).toBeLessThan(MIB);
  {
    await using loaded = await Snapshot.load(saved);
    await using clone = await loaded.fork();
    expect(await hashOf(clone, IMAGE)).toBe(own.hash);
    const line = 'echo 3 > /proc/sys/vm/drop_caches; head -n 1 /dev/vdc; cat /sys/block/vdb/serial';
    expect((await shell(clone, line)).split('\n')).toEqual(['saved', 'own']);
    await clone.detachDisk(IMAGE.drive);
    await expectSize(clone, IMAGE, 0);
  }
  const { atime } = statSync(own.path);
  utimesSync(own.path, atime, new Date(0));
  await expect(Snapshot.load(saved)).rejects.toMatchObject({
    code: 'VMF_SNAPSHOT_INCOMPATIBLE',
    message: expect.stringContaining(own.path),
  });
  rmSync(join(saved, 'disk1'));
  await expect(Snapshot.load(saved)).rejects.toThrow();
});

test('a filesystem on a file of the caller outlives the clone', async () => {
  const path = join(directory, 'kept');
  writeFileSync(path, Buffer.alloc(4 * MIB));
  await using clone = await snapshot.fork();
  await clone.attachDisk(SCRATCH.drive, { path, readOnly: false });
  await expectSize(clone, SCRATCH, 4 * MIB);
  await shell(
    clone,
    `mke2fs /dev/vdc >/dev/null && mkdir /tmp/m && mount -t ext4 /dev/vdc /tmp/m &&
     echo kept-text > /tmp/m/file && umount /tmp/m`,
  );
  await clone.detachDisk(SCRATCH.drive);
  expect(readFileSync(path).includes('kept-text')).toBe(true);
});

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
