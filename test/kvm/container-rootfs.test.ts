// The root filesystem of a container: attached before a snapshot or after a fork, written to, copied to and from, and taken
// away; and what cannot be attached.
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type PreparedRootfs, Snapshot } from 'vmfork';
import { cacheDirectory } from '#src/kvm/guest.js';
import { busyboxRootfs, bytesOf, shellOf, warmedSnapshot } from '../helpers/images.js';
import { destroyAll, scratchBytes, templateSnapshot } from '../helpers/kvm.js';
import { archive, directory, symlink } from '../unit/oci/rootfs/tar-maker.js';

const MIB = 1024 * 1024;
const folder = mkdtempSync(join(tmpdir(), 'vmfork-rootfs-'));
let rootfs: PreparedRootfs;
let bare: Snapshot;
let warmed: Snapshot;

beforeAll(async () => {
  rootfs = await busyboxRootfs();
  bare = await templateSnapshot();
  const resolvConf = 'nameserver ::1\n';
  warmed = await warmedSnapshot(rootfs, { hosts: { database: '10.0.0.9' }, resolvConf });
});
afterAll(async () => {
  await warmed?.destroy();
  await bare?.destroy();
  rmSync(folder, { recursive: true });
});

test('clones of a template with an image have names and files of their own', async () => {
  const clones = await warmed.fork({ count: 2, hostname: 'box' });
  const line =
    'cat /etc/hostname; grep -c box- /etc/hosts; grep database /etc/hosts; cat /etc/resolv.conf; ls /; echo mine >/mine';
  const texts = await Promise.all(clones.map((clone) => shellOf(clone, line)));
  for (const [index, text] of texts.entries()) {
    const [name, own, extra, resolver, ...entries] = text.trim().split('\n');
    expect({ name, own, extra, resolver }).toEqual({
      name: `box-${index}`,
      own: '1',
      extra: '10.0.0.9\tdatabase',
      resolver: 'nameserver ::1',
    });
    expect(entries).toContain('bin');
    expect(entries).not.toContain('mine');
  }
  await destroyAll(clones);
});

test('an image can be attached once, taken away with all that was written, and attached again', async () => {
  await using clone = await bare.fork();
  await expect(clone.run({ argv: ['true'] })).rejects.toMatchObject({ code: 'VMF_STATE' });
  await clone.attach(rootfs);
  await expect(clone.attach(rootfs)).rejects.toMatchObject({ code: 'VMF_STATE' });
  const container = clone.start({ argv: ['sh', '-c', 'echo x >/mine; exec cat'], keep: true });
  await container.main.pid;
  await expect(clone.detach()).rejects.toMatchObject({ code: 'VMF_ROOTFS' });
  container.main.stdin?.end();
  await container.exited;
  await clone.detach();
  await expect(clone.detach()).rejects.toMatchObject({ code: 'VMF_STATE' });
  await clone.attach(rootfs, { writable: false });
  const line = 'ls /mine 2>&1; (echo x >/mine) 2>&1; echo x >/dev/shm/mine && echo shm';
  expect(await shellOf(clone, line)).toMatch(
    /No such file or directory\n.*Read-only file system\nshm\n$/,
  );
});

test('what is no image is refused, and the drive is empty afterwards', async () => {
  await using clone = await bare.fork();
  const missing = join(folder, 'missing');
  const noise = join(folder, 'noise');
  writeFileSync(noise, randomBytes(MIB));
  const truncated = join(folder, 'truncated');
  writeFileSync(truncated, '');
  truncateSync(truncated, MIB);
  await expect(clone.attach(missing)).rejects.toMatchObject({ code: 'VMF_DISK' });
  for (const path of [noise, truncated]) {
    await expect(clone.attach(path)).rejects.toMatchObject({ code: 'VMF_ROOTFS' });
  }
  await expect(clone.attach(rootfs, { upperMiB: 0 })).rejects.toMatchObject({
    code: 'VMF_OPTIONS',
  });
  await clone.attach(rootfs);
});

test('a scratch disk is thrown away, and says when it is full', async () => {
  await using clone = await bare.fork();
  await clone.attach(rootfs, { writable: { diskMiB: 16 } });
  expect(readdirSync(join(cacheDirectory(), 'scratch'))).toEqual([]);
  // Blocks are taken by one call: an interpreted kernel takes a minute to write so many pages.
  const fill = 'fallocate -l 64M /full 2>&1; (echo x >/more) 2>&1; stat -c %b /full';
  const [taken, written, blocks] = (await shellOf(clone, fill)).trim().split('\n');
  expect([taken, written]).toEqual(
    Array(2).fill(expect.stringMatching(/No space left on device$/)),
  );
  expect(Number(blocks) * 512).toBeGreaterThan(12 * MIB);
  expect(Number(blocks) * 512).toBeLessThan(16 * MIB);
  expect(await shellOf(clone, 'rm /full; echo room >/room; cat /room')).toBe('room\n');
});

test('a branch copies nothing of a scratch disk, and each has its own from then on', async () => {
  await using clone = await bare.fork();
  await clone.attach(rootfs, { writable: { diskMiB: 16 } });
  await shellOf(clone, 'dd if=/bin/busybox of=/kept bs=64k count=8; echo old >/own');
  await clone.exec(['sync']);
  const [before = 0] = scratchBytes();
  expect(before).toBeGreaterThan(MIB / 2);
  await using branch = await clone.fork();
  const after = scratchBytes().reduce((sum, bytes) => sum + bytes, 0);
  expect(after - before).toBeLessThan(before / 2);
  await shellOf(clone, 'echo new >/own; sync');
  const line = 'cat /own; md5sum </kept';
  const [own, sum] = (await shellOf(clone, line)).split('\n');
  expect(own).toBe('new');
  expect((await shellOf(branch, line)).split('\n').slice(0, 2)).toEqual(['old', sum]);
});

test('memory for writing has a limit, too; the root can be read-only with places to write', async () => {
  await using clone = await bare.fork();
  await clone.attach(rootfs, { upperMiB: 1 });
  const full = await clone.run({
    argv: ['sh', '-c', 'dd if=/dev/zero of=/full bs=64k count=16; rm /full'],
    keep: true,
  });
  expect(full.stderr).toContain('No space left on device');
  const { stdout } = await clone.run({
    argv: [
      'sh',
      '-c',
      'for d in / /t /v; do (echo x >$d/f) 2>&1 && echo $d; done; df -k /t | tail -n 1',
    ],
    readOnly: true,
    tmpfs: { '/t': 'size=64k,mode=700' },
    volumes: ['/v'],
    keep: true,
  });
  const [refused, ...written] = stdout.trim().split('\n');
  expect(refused).toMatch(/Read-only file system$/);
  expect(written).toEqual(['/t', '/v', expect.stringMatching(/^tmpfs +64 /)]);
});

test('a tmpfs has the mode of what it covers and does not cover what lies deeper', async () => {
  await using clone = await warmed.fork();
  const { stdout } = await clone.run({
    argv: ['sh', '-c', 'stat -c %a /run /fresh /var/tmp; ls /etc /etc/deep'],
    tmpfs: { '/etc/deep': 'noatime', '/run': '', '/fresh': '', '/var/tmp': 'mode=711', '/etc': '' },
    volumes: ['/etc/deep/volume'],
  });
  expect(stdout).toBe('755\n1777\n711\n/etc:\ndeep\n\n/etc/deep:\nvolume\n');
});

test('trees are copied in and out as tar streams', async () => {
  await using clone = await warmed.fork();
  const content = randomBytes(100_000);
  const tar = archive(
    directory('tree', { mode: 0o750, uid: 7, gid: 8 }),
    { name: 'tree/file', content, mode: 0o640, uid: 1000, gid: 100 },
    symlink('tree/link', '/etc/passwd'),
  );
  await clone.copyIn('/var/tmp', Readable.from([tar.subarray(0, 700), tar.subarray(700)]));
  const line =
    "cd /var/tmp/tree; stat -c '%n %a %u:%g' .; stat -c '%n %a %u:%g %s' file; readlink link";
  expect(await shellOf(clone, line)).toBe('. 750 7:8\nfile 640 1000:100 100000\n/etc/passwd\n');
  const back = await bytesOf(clone.copyOut('/var/tmp/tree'));
  expect(back.includes(content)).toBe(true);
  await expect(clone.copyIn('/no/such', Readable.from([tar]))).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
  });
  await expect(bytesOf(clone.copyOut('/no/such'))).rejects.toMatchObject({
    code: 'VMF_GUEST_FILE',
  });
});

test('a snapshot with an image is saved and loaded', async () => {
  const saved = join(folder, 'saved');
  {
    await using clone = await warmed.fork();
    await shellOf(clone, 'echo kept >/kept');
    await using snapshot = await clone.snapshot();
    await snapshot.save(saved);
  }
  await using loaded = await Snapshot.load(saved);
  await using clone = await loaded.fork();
  expect(await shellOf(clone, 'cat /kept; echo $PATH')).toMatch(/^kept\n\/usr\/local\/sbin:/);
});
