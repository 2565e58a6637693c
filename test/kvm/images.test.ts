// Images made by tools of Debian, in real guests: trees as umoci unpacks them, and many containers at once.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ImageStore, type PreparedRootfs, prepareRootfs, type Snapshot } from 'vmfork';
import { findGuest } from '#src/kvm/guest.js';
import { debianRootfs } from '../helpers/debian-image.js';
import { busyboxRootfs, shellOf, warmedSnapshot } from '../helpers/images.js';
import { destroyAll, templateSnapshot } from '../helpers/kvm.js';
import { run } from '../helpers/oci/images.js';
import {
  archive,
  directory,
  hardlink,
  type Member,
  symlink,
} from '../unit/oci/rootfs/tar-maker.js';

const MAKE_TIMEOUT_MS = 600_000;
const folder = mkdtempSync(join(tmpdir(), 'vmfork-images-'));
let busybox: Snapshot;
let odd: Snapshot;
let debian: Snapshot;

beforeAll(async () => {
  busybox = await warmedSnapshot(await busyboxRootfs());
  odd = await warmedSnapshot(await oddRootfs());
  debian = await warmedSnapshot(await debianRootfs());
}, MAKE_TIMEOUT_MS);
afterAll(async () => {
  await Promise.all([busybox, odd, debian].map((snapshot) => snapshot?.destroy()));
  rmSync(folder, { recursive: true });
});

const xattr = (name: string, value: string) => ({ [`SCHILY.xattr.${name}`]: value });

/** Layers over busybox with everything that layers can say, all of it below /t; bottom first. */
const ODD_LAYERS: (Member | Buffer)[][] = [
  [
    directory('t', { mode: 0o1777, uid: 3, gid: 4 }),
    { name: 't/plain', content: 'plain', mode: 0o4755, uid: 1000, gid: 100 },
    { name: 't/gone', content: 'gone' },
    { name: 't/first', content: 'linked' },
    hardlink('t/second', 't/first'),
    hardlink('t/third', 't/second'),
    directory('t/opaque', { mode: 0o711 }),
    { name: 't/opaque/old', content: 'old' },
    directory('t/tree'),
    { name: 't/tree/kept', content: 'kept' },
    { name: 't/tree/gone', content: 'gone' },
    directory('t/becomes-file'),
    { name: 't/becomes-file/x', content: 'x' },
    { name: 't/becomes-directory', content: 'x' },
    symlink('t/absolute', '/etc/passwd'),
    symlink('t/dangling', '../../../nowhere'),
    { name: 't/attributes', content: 'x', pax: xattr('user.note', 'said') },
    { name: 't/pipe', type: '6', mode: 0o600 },
    { name: 't/null', type: '3', major: 1, minor: 3, mode: 0o666 },
    { name: 't/name with \\ and "', content: 'odd name' },
    { name: 't/large', content: Buffer.alloc(70_001, 'abcdefg') },
    { name: 't/empty' },
  ],
  [
    { name: 't/.wh.gone' },
    { name: 't/.wh.first' },
    directory('t/opaque', { mode: 0o700, uid: 9 }),
    { name: 't/opaque/.wh..wh..opq' },
    { name: 't/opaque/new', content: 'new' },
    { name: 't/tree/.wh.gone' },
    { name: 't/becomes-file', content: 'file now' },
    directory('t/becomes-directory'),
    { name: 't/becomes-directory/inside', content: 'y' },
    { name: 't/tree/deep/er/file', content: 'deep' },
    hardlink('t/plain-again', 't/plain'),
  ],
];

// For busybox's tools, on both sides: what is there; times of files only, umoci gives directories the present.
const LIST = `cd t
find . | sort | while IFS= read -r n; do
if [ -d "$n" ] && [ ! -L "$n" ]; then stat -c '%n|%f|%u:%g' "$n"; else stat -c '%n|%f|%u:%g|%s|%h|%t:%T|%Y' "$n"; fi; done
find . -type l | sort | while IFS= read -r n; do readlink "$n"; done
find . -type f | sort | tr '\\n' '\\0' | xargs -0 sha256sum
stat -c %i second third plain plain-again | uniq -c | sed 's/ [0-9]*$//'`;

async function oddRootfs(): Promise<PreparedRootfs> {
  const layout = join(folder, 'layout');
  run('umoci', 'init', '--layout', layout);
  run(
    'skopeo',
    '--insecure-policy',
    'copy',
    '--quiet',
    `oci-archive:${findGuest().imagePath}`,
    `oci:${layout}:odd`,
  );
  for (const [index, layer] of ODD_LAYERS.entries()) {
    const path = join(folder, `layer${index}.tar`);
    writeFileSync(path, archive(...layer));
    run('umoci', 'raw', 'add-layer', '--image', `${layout}:odd`, path);
  }
  const store = await ImageStore.open({ dir: join(folder, 'store') });
  const image = await store.importFrom(layout, { reference: 'odd' });
  return prepareRootfs(image, { dir: join(folder, 'rootfs') });
}

test('a tree in the guest is what umoci unpacks: whiteouts, links, owners, modes, devices, contents', async () => {
  run('umoci', 'unpack', '--image', `${join(folder, 'layout')}:odd`, join(folder, 'bundle'));
  const expected = execFileSync('busybox', ['sh', '-ec', LIST], {
    cwd: join(folder, 'bundle/rootfs'),
    encoding: 'utf8',
  });
  await using clone = await odd.fork();
  expect(await shellOf(clone, LIST)).toBe(expected);
});

test.each([
  [
    'squashfs',
    (tree: string, to: string) => run('mksquashfs', tree, to, '-quiet', '-comp', 'zstd'),
  ],
  ['ext4', (tree: string, to: string) => run('mkfs.ext4', '-q', '-d', tree, to, '16M')],
])('images of %s serve as well', async (type, make) => {
  const tree = join(folder, `${type}-tree`);
  mkdirSync(join(tree, 'bin'), { recursive: true });
  copyFileSync('/bin/busybox', join(tree, 'bin/sh'));
  writeFileSync(join(tree, 'note'), type);
  const path = join(folder, type);
  make(tree, path);
  await using base = await templateSnapshot();
  await using clone = await base.fork();
  await clone.attach(path);
  const line = 'read -r n </note; echo $n; echo changed >/note; read -r n </note; echo $n';
  expect(await shellOf(clone, line)).toBe(`${type}\nchanged\n`);
});

test('20 containers of 3 images at once', async () => {
  const shares = [busybox, odd, debian].map((snapshot, index) =>
    snapshot.fork({ count: [7, 7, 6][index] as number }),
  );
  const clones = (await Promise.all(shares)).flat();
  const results = await Promise.all(
    clones.map((clone, index) =>
      clone.run({ argv: ['sh', '-c', `echo ${index} >/f; cat /f; exit ${index}`] }),
    ),
  );
  expect(results.map(({ exitCode, stdout }) => [exitCode, stdout])).toEqual(
    clones.map((_, index) => [index, `${index}\n`]),
  );
  expect(clones.every(({ state }) => state === 'destroyed')).toBe(true);
  await destroyAll(clones);
});
