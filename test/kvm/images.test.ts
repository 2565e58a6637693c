// Images made by tools of Debian, in real guests: trees as umoci unpacks them, and many containers at once.
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ImageStore, type PreparedRootfs, prepareRootfs, type Snapshot } from 'vmfork';
import { findGuest } from '#src/kvm/guest.js';
import { debianRootfs } from '../helpers/debian-image.js';
import { busyboxRootfs, shellOf, untilLine, warmedSnapshot } from '../helpers/images.js';
import { destroyAll, templateSnapshot } from '../helpers/kvm.js';
import { run } from '../helpers/oci/images.js';
import { listHere, listInside, withoutTimes } from '../helpers/tree-list.js';
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

// struct vfs_cap_data of linux/capability.h: version 2 and effective, CAP_NET_BIND_SERVICE permitted.
const BIND = Buffer.from([1, 0, 0, 2, 0, 4, ...Array<number>(14).fill(0)]);
const busyboxBytes = readFileSync('/bin/busybox');
const PASSWD = `root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/sh
ann:x:1000:100:Ann:/vol:/bin/sh
`;
const GROUP = 'root:x:0:\nusers:x:100:\nwheel:x:10:bob,ann\naudio:x:29:bob\nnogroup:x:65534:\n';
// Directories that the second layer does not name, but what is in them: umoci gives them the present.
const TOUCHED = ['tree', 'tree/deep', 'tree/deep/er'];
// As `umoci config` sets it in the image.
const CONFIG = ['user=ann', 'volume=/vol', 'stopsignal=SIGUSR1', 'workingdir=/t'];
const xattr = (name: string, value: string | Buffer) => ({ [`SCHILY.xattr.${name}`]: value });

/** Layers over busybox with everything that layers can say, all of it below /t; bottom first. */
const ODD_LAYERS: (Member | Buffer)[][] = [
  [
    { name: 'etc/passwd', content: PASSWD },
    { name: 'etc/group', content: GROUP },
    directory('vol', { uid: 1000, gid: 100 }),
    { name: 'vol/kept', content: 'kept\n' },
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
    {
      name: 't/busybox-bound',
      content: busyboxBytes,
      mode: 0o755,
      pax: xattr('security.capability', BIND),
    },
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
  const options = CONFIG.map((option) => `--config.${option}`);
  run('umoci', 'config', '--image', `${layout}:odd`, ...options);
  const store = await ImageStore.open({ dir: join(folder, 'store') });
  const image = await store.importFrom(layout, { reference: 'odd' });
  return prepareRootfs(image, { dir: join(folder, 'rootfs') });
}

test('a tree in the guest is what umoci unpacks: whiteouts, links, owners, modes, times, devices, attributes, contents', async () => {
  run('umoci', 'unpack', '--image', `${join(folder, 'layout')}:odd`, join(folder, 'bundle'));
  const expected = listHere(join(folder, 'bundle/rootfs/t'));
  expect(expected.join('\n')).toMatch(/^attributes .* user.note=73616964 sum=/m);
  expect(expected.join('\n')).toMatch(
    /^busybox-bound .* security.capability=01000002000400000{24} sum=/m,
  );
  await using clone = await odd.fork();
  expect(withoutTimes(await listInside(clone, '/t'), TOUCHED)).toEqual(
    withoutTimes(expected, TOUCHED),
  );
});

test('a file capability is effective in the guest', async () => {
  await using clone = await odd.fork();
  const argv = ['/t/busybox-bound', 'grep', 'CapEff', '/proc/self/status'];
  const { stdout } = await clone.run({ argv, entrypoint: [], user: 'nobody' });
  expect(stdout).toBe(`CapEff:\t${'400'.padStart(16, '0')}\n`);
});

test('user with groups, volume, directory and stop signal are what the image’s config says', async () => {
  await using clone = await odd.fork();
  const line = 'id; pwd; cat /vol/kept; echo new >/vol/new; cat /vol/new; (: >/t/new) 2>&1; true';
  const { stdout } = await clone.run({ argv: ['sh', '-c', line], readOnly: true, keep: true });
  expect(stdout.split('\n')).toEqual([
    'uid=1000(ann) gid=100(users) groups=10(wheel),100(users)',
    '/t',
    'kept',
    'new',
    expect.stringMatching(/Read-only file system$/),
    '',
  ]);
  const waiting = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done";
  const container = clone.start({ argv: ['sh', '-c', waiting] });
  await untilLine(container.main.stdout, 'ready');
  await expect(container.stop()).resolves.toMatchObject({ exitCode: 7, signal: null });
});

test.each([
  [
    'squashfs',
    // An interpreted kernel takes a minute to unpack the program; what it reads of the note is compressed.
    (tree: string, to: string) =>
      run('mksquashfs', tree, to, '-quiet', '-comp', 'zstd', '-action', 'uncompressed@name(sh)'),
  ],
  ['ext4', (tree: string, to: string) => run('mkfs.ext4', '-q', '-d', tree, to, '16M')],
])('images of %s serve as well', async (type, make) => {
  const tree = join(folder, `${type}-tree`);
  mkdirSync(join(tree, 'bin'), { recursive: true });
  copyFileSync('/bin/busybox', join(tree, 'bin/sh'));
  const numbers = Array.from({ length: 4000 }, (_, number) => number * number);
  writeFileSync(join(tree, 'note'), [type, ...numbers].join('\n'));
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
      clone.run({ argv: ['sh', '-c', `echo ${index} >/f; cat /f; exit ${index}`], user: '0' }),
    ),
  );
  expect(results.map(({ exitCode, stdout }) => [exitCode, stdout])).toEqual(
    clones.map((_, index) => [index, `${index}\n`]),
  );
  expect(clones.every(({ state }) => state === 'destroyed')).toBe(true);
  await destroyAll(clones);
});
