// Layers on layers: the merged tree against what `umoci unpack` makes of the same image, and the cases that it leaves open.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it, vi } from 'vitest';
import { archive, directory, hardlink, type Member, symlink } from './tar-maker.js';
import { type Listing, listTree, scratch, treeOf } from './trees.js';

vi.setConfig({ testTimeout: 60_000 });

const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');

/** Writes an OCI layout with one image of these plain layers. */
function writeLayout(path: string, layers: readonly Buffer[]): void {
  mkdirSync(join(path, 'blobs/sha256'), { recursive: true });
  const put = (content: Buffer | string, mediaType: string) => {
    const digest = sha256(content);
    writeFileSync(join(path, 'blobs/sha256', digest), content);
    return { mediaType, digest: `sha256:${digest}`, size: content.length };
  };
  const type = 'application/vnd.oci.image';
  const descriptors = layers.map((layer) => put(layer, `${type}.layer.v1.tar`));
  const config = put(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: descriptors.map(({ digest }) => digest) },
    }),
    `${type}.config.v1+json`,
  );
  const manifest = put(
    JSON.stringify({ schemaVersion: 2, config, layers: descriptors }),
    `${type}.manifest.v1+json`,
  );
  const annotations = { 'org.opencontainers.image.ref.name': 'test' };
  const manifests = [{ ...manifest, annotations }];
  writeFileSync(join(path, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
  writeFileSync(join(path, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
}

const umoci = (...args: string[]) => execFileSync('umoci', args, { stdio: 'pipe' });

const ignoreTimes = () => true;

/** The tree that umoci makes; without times of directories, since it gives those that it makes itself the present. */
function unpackedByUmoci(layers: readonly Buffer[]): Listing {
  using folder = scratch();
  writeLayout(join(folder.path, 'layout'), layers);
  umoci('unpack', '--image', `${folder.path}/layout:test`, join(folder.path, 'bundle'));
  return listTree(join(folder.path, 'bundle/rootfs'), { ignoreTimes });
}

const root = directory('./', { mode: 0o755 });

/** What differs in how lower layers' entries are hidden or kept; every stack is bottom first. */
const STACKS: Record<string, (Member | Buffer)[][]> = {
  'whiteouts of files, directories and links': [
    [
      root,
      directory('d'),
      { name: 'd/a' },
      { name: 'd/b' },
      directory('e'),
      { name: 'e/f' },
      symlink('l', 'd'),
    ],
    [
      root,
      directory('d'),
      { name: 'd/.wh.a' },
      { name: '.wh.e' },
      { name: '.wh.l' },
      { name: '.wh.none' },
    ],
  ],
  'opaque directories': [
    [root, directory('d', { mode: 0o711 }), directory('d/s'), { name: 'd/s/a' }, { name: 'd/b' }],
    [root, directory('d'), { name: 'd/.wh..wh..opq' }, { name: 'd/c', content: 'new' }],
  ],
  'an opaque marker behind what its layer writes': [
    [root, directory('d'), { name: 'd/a', content: 'old' }, { name: 'd/b' }],
    [root, directory('d'), { name: 'd/a', content: 'new' }, { name: 'd/.wh..wh..opq' }],
  ],
  'a whiteout and a new file of the same name': [
    [root, directory('d'), { name: 'd/a', content: 'old' }],
    [root, { name: '.wh.d' }, directory('d', { mode: 0o700 }), { name: 'd/b', content: 'new' }],
  ],
  'a file in place of a directory, and a directory over that': [
    [root, directory('d'), { name: 'd/a', content: 'lowest' }],
    [root, { name: 'd', content: 'file' }],
    [root, directory('d'), { name: 'd/b', content: 'top' }],
  ],
  'implicit parents keep what lower layers say of them': [
    [root, directory('d', { mode: 0o711, uid: 5, pax: { 'SCHILY.xattr.user.k': 'v' } })],
    [root, { name: 'd/new/file', content: 'x' }],
  ],
  'hard links whose first name an upper layer hides': [
    [root, { name: 'a', content: 'linked' }, hardlink('b', 'a'), hardlink('c', 'b')],
    [root, { name: '.wh.a' }, { name: 'b', content: 'other' }],
  ],
  'a hard link to a file of a lower layer': [
    [root, { name: 'a', content: 'lower' }],
    [root, hardlink('b', 'a'), { name: '.wh.a' }],
  ],
  'parents that are symbolic links of the same or a lower layer': [
    [root, directory('usr'), directory('usr/lib'), symlink('lib', 'usr/lib'), { name: 'lib/a' }],
    [root, { name: 'lib/b', content: 'b' }, { name: 'lib/.wh.a' }],
    [
      root,
      symlink('abs', '/usr/../lib'),
      { name: 'abs/c' },
      symlink('up', '../../usr'),
      { name: 'up/d' },
    ],
  ],
  'a directory in place of a symbolic link to one': [
    [root, directory('usr'), { name: 'usr/a' }, symlink('lib', 'usr')],
    [root, directory('lib'), { name: 'lib/.wh..wh..opq' }, { name: 'lib/b' }],
  ],
  'entries that come twice': [
    [
      root,
      { name: 'a', content: 'first' },
      directory('b'),
      { name: 'b/c' },
      { name: 'a', content: 'second' },
      { name: 'b' },
    ],
  ],
  'devices, pipes and attributes': [
    [
      root,
      { name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 },
      { name: 'p', type: '6' },
      { name: 'x' },
    ],
    [
      root,
      { name: 'disk', type: '4', major: 259, minor: 70_000 },
      { name: 'x', mode: 0o4755, pax: { 'SCHILY.xattr.user.n': 'v' } },
    ],
  ],
};

describe('merging layers', () => {
  for (const [name, stack] of Object.entries(STACKS)) {
    it(`agrees with umoci: ${name}`, async () => {
      const layers = stack.map((members) => archive(...members));
      expect(await treeOf(layers, { ignoreTimes })).toEqual(unpackedByUmoci(layers));
    });
  }

  it('agrees with umoci on layers that umoci made', async () => {
    using folder = scratch();
    const image = `${folder.path}/layout:test`;
    const bundle = join(folder.path, 'bundle');
    umoci('init', '--layout', join(folder.path, 'layout'));
    umoci('new', '--image', image);
    umoci('unpack', '--image', image, bundle);
    const shell = (script: string) =>
      execFileSync('sh', ['-ec', script], { cwd: `${bundle}/rootfs` });
    shell(
      'mkdir -p usr/bin etc var/cache/apt; echo 1 >usr/bin/x; ln usr/bin/x usr/bin/y; ln -s x usr/bin/z; seq 9999 >var/cache/apt/list; mkfifo etc/p',
    );
    umoci('repack', '--image', image, '--refresh-bundle', bundle);
    shell(
      'rm -r var/cache/apt usr/bin/x; echo 2 >etc/conf; chmod 711 etc; ln etc/conf etc/conf2; rm etc/p; mkdir etc/p; touch etc/p/q',
    );
    umoci('repack', '--image', image, '--refresh-bundle', bundle);
    const layout = (path: string) => readFileSync(join(folder.path, 'layout', path));
    const blob = (digest: string) => layout(join('blobs', digest.replace(':', '/')));
    const manifest = JSON.parse(
      blob(JSON.parse(layout('index.json').toString()).manifests[0].digest).toString(),
    );
    const layers = manifest.layers.map(({ digest }: { digest: string }) =>
      gunzipSync(blob(digest)),
    );
    expect(layers).toHaveLength(2);
    expect(await treeOf(layers, { ignoreTimes })).toEqual(
      listTree(`${bundle}/rootfs`, { ignoreTimes }),
    );
  });

  it('gives directories that no layer describes mode 755, root and time 0', async () => {
    const tree = await treeOf([archive({ name: 'a/b' })]);
    expect(tree.get('')).toMatch(/^40755\|0\|0\|\|\|0\|0\|/);
    expect(tree.get('a')).toMatch(/^40755\|0\|0\|\|\|0\|0\|/);
  });

  it('makes an empty root of no layers', async () => {
    expect([...(await treeOf([])).keys()]).toEqual(['']);
  });

  it('makes the directories that a dangling symbolic link leads to, inside the tree', async () => {
    const tree = await treeOf([archive(symlink('l', '/../../../tmp/./outside'), { name: 'l/f' })]);
    expect([...tree.keys()]).toEqual(['', 'l', 'tmp', 'tmp/outside', 'tmp/outside/f']);
  });

  it('leaves overlayfs attributes and private files of aufs out', async () => {
    const xattrs = {
      'SCHILY.xattr.trusted.overlay.redirect': '/etc',
      'SCHILY.xattr.lustre.x': 'x',
    };
    const tree = await treeOf([archive(directory('d', { pax: xattrs }), { name: '.wh..wh.plnk' })]);
    expect([...tree.keys()]).toEqual(['', 'd']);
    expect(tree.get('d')).toMatch(/\|$/);
  });

  it('counts links of directories and files', async () => {
    const tree = await treeOf([archive(directory('d/e'), { name: 'f' }, hardlink('d/f', 'f'))]);
    expect(tree.get('f')).toMatch(/^100644\|0\|0\|0\|2\|/);
  });
});
