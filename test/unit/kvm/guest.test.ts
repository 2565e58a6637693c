import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { cacheDirectory, commandLine, findGuest } from '#src/kvm/guest.js';

let cache: string;

beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'vmfork-cache-'));
  vi.stubEnv('VMFORK_CACHE_DIR', cache);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(cache, { recursive: true });
});

function makeGuest(id: string, ageSeconds: number): void {
  const guest = join(cache, 'guest');
  const part = (name: string, file: string) => {
    mkdirSync(join(guest, `${name}-${id}`), { recursive: true });
    writeFileSync(join(guest, `${name}-${id}`, file), '');
    return { path: `/elsewhere/guest/${name}-${id}/${file}` };
  };
  const manifest = {
    kernelRelease: '6.1',
    cmdline: { common: 'a', pvm: 'b' },
    kernel: part('kernel', 'vmlinux'),
    initrd: part('initramfs', 'initramfs.cpio'),
    userland: part('userland', 'userland.erofs'),
    image: part('userland', 'busybox.oci.tar'),
  };
  const path = join(guest, `manifest-${id}.json`);
  writeFileSync(path, JSON.stringify(manifest));
  const time = Date.now() / 1000 - ageSeconds;
  utimesSync(path, time, time);
}

test('without a cache the guest is missing', () => {
  expect(() => findGuest()).toThrow(expect.objectContaining({ code: 'VMF_GUEST_MISSING' }));
});

test('the newest guest is found, in a cache that was moved', () => {
  makeGuest('old', 100);
  makeGuest('new', 10);
  expect(findGuest()).toMatchObject({
    id: 'new',
    kernelPath: join(cache, 'guest/kernel-new/vmlinux'),
    userlandPath: join(cache, 'guest/userland-new/userland.erofs'),
    imagePath: join(cache, 'guest/userland-new/busybox.oci.tar'),
  });
});

test('a guest with a part removed, or a broken manifest, is passed over', () => {
  makeGuest('old', 100);
  makeGuest('new', 10);
  rmSync(join(cache, 'guest/kernel-new'), { recursive: true });
  writeFileSync(join(cache, 'guest/manifest-broken.json'), '{');
  expect(findGuest().id).toBe('old');
});

test('the command line fits the host', () => {
  const guest = { cmdline: { common: 'quiet', pvm: 'noxsave' } };
  expect(commandLine(guest, 'hardware')).toBe('quiet');
  expect(commandLine(guest, 'pvm', 'debug')).toBe('quiet noxsave debug');
});

test('the cache is where the XDG specification puts it', () => {
  vi.stubEnv('VMFORK_CACHE_DIR', '');
  vi.stubEnv('XDG_CACHE_HOME', '/x');
  expect(cacheDirectory()).toBe('/x/vmfork');
});
