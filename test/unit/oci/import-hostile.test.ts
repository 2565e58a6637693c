// Folders and archives made to do harm: an import refuses them with a typed error and keeps nothing of them.

import { mkdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { readWhole, TarArchive } from '#src/oci/archive.js';
import { ImageStore } from '#src/oci/store.js';
import { digestOf, makeLayout, run, Scratch } from '../../helpers/oci/images.js';
import {
  archive,
  directory,
  hardlink,
  type Member,
  paxMember,
  symlink,
} from './rootfs/tar-maker.js';
import { withImage } from './rootfs/trees.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000 });

const scratch = new Scratch();
let stores = 0;
afterAll(() => scratch.remove());

/** What importing fails with; the store must be as if it had not been tried. */
async function failureOf(path: string): Promise<unknown> {
  const store = await ImageStore.open({ dir: scratch.file(`store${stores++}`) });
  const failure = await store.importFrom(path).then(
    () => undefined,
    (error: unknown) => error,
  );
  await store.gc();
  expect(run('find', store.dir, '-type', 'f').trim()).toBe(`${store.dir}/store.json`);
  return failure;
}

/** Opens an archive, and gives what its files hold, by name. */
async function contentsOf(tar: Buffer, names: string[]) {
  const path = scratch.file('contents.tar');
  writeFileSync(path, tar);
  await using handle = await open(path);
  const found = await TarArchive.read(handle);
  const texts: (string | undefined)[] = [];
  for (const name of names) {
    const span = found.find(name);
    texts.push(span && (await readWhole(handle, span)).toString());
  }
  return texts;
}

describe('archives', () => {
  test.each([
    ['K', 'L'],
    ['L', 'K'],
  ])('are read by the names that the reader of layers sees (%s, %s)', async (...order) => {
    const texts: Record<string, string> = { L: 'gnu', K: 'gnu-target' };
    const longs = order.map((type) => ({ type, content: `${texts[type]}\0` }));
    const records = { path: 'pax', linkpath: 'pax-target' };
    const path = scratch.file('names.tar');
    const tar = archive(
      ...longs,
      { type: '2', link: 'block-target', name: 'block', pax: records },
      { name: 'gnu-target', content: 'gnu' },
      { name: 'pax-target', content: 'PAX' },
      // A size without content: directories and links have none.
      { type: '5', name: 'folder', size: 512 },
      { type: '1', name: 'hard', link: 'gnu-target', size: 99_999 },
      { name: 'last', content: 'last' },
    );
    writeFileSync(path, tar);
    await using handle = await open(path);
    const found = await TarArchive.read(handle);
    const contentOf = async (name: string) => {
      const span = found.find(name);
      return span && (await readWhole(handle, span)).toString();
    };
    expect(await contentOf('gnu')).toBe('gnu');
    expect(await contentOf('pax')).toBeUndefined();
    expect(await contentOf('hard')).toBe('gnu');
    expect(await contentOf('last')).toBe('last');
    const listing = await withImage([tar], (root) => readlinkSync(`${root}/gnu`));
    expect(listing).toBe('gnu-target');
  });

  const sparse = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '3' };
  const file = { name: 'a', content: 'abc' };
  test.each<[what: string, message: string, ...Member[]]>([
    [
      'a sparse file of old GNU tar',
      'a sparse file',
      { ...file, type: 'S', patchBeforeSum: oldMap },
    ],
    ['a sparse file', 'a sparse file', { name: 'a', pax: sparse, content: sparseContent('0\n3') }],
    ['sparse records alone', 'without a size', { ...file, pax: { 'GNU.sparse.name': 'b' } }],
    ['a type that nobody knows', 'is not supported', { ...file, type: 'Z' }],
    ['a device', 'neither file nor folder', { ...file, type: '3' }],
    ['a name that leads elsewhere', 'a name with ".."', { ...file, name: 'b/../a' }],
    ['a name with a zero byte', 'a zero byte', { ...file, pax: { path: 'a\0b' } }],
    ['a folder with content', 'a directory with content', { ...file, name: 'a/' }],
    ['a link with names below it', 'both a folder and none', symlink('a', 'b'), { name: 'a/c' }],
    ['a file where a folder is', 'both a folder and none', { name: 'a/c' }, file],
    ['a hard link to what comes later', 'a hard link to no file', hardlink('b', 'a'), file],
    ['an end inside of a header', 'in the middle', { ...file, size: 9999 }],
  ])('with %s are refused', async (_, message, ...members) => {
    const failure = contentsOf(archive(...members), []);
    await expect(failure).rejects.toMatchObject({
      code: 'VMF_IMAGE_INVALID',
      message: expect.stringMatching(new RegExp(`: archive: offset \\d+.*${message}`)),
    });
  });

  test('are read as they would be unpacked: later members win, links lead where they would', async () => {
    const tar = archive(
      { name: './a', content: 'first' },
      hardlink('kept', 'a'),
      { name: 'a', content: 'second' },
      directory('deep/folder/'),
      { name: 'deep/folder/file', content: 'deep' },
      symlink('way', 'deep/folder'),
      symlink('deep/folder/up', '../../a'),
      symlink('rooted', '/deep/../way/file'),
      symlink('loop', 'loop'),
      symlink('out', '../a'),
    );
    const names = ['a', 'kept', 'way/file', 'way/up', 'rooted', 'loop', 'out', 'a/b', 'deep'];
    const [none, deep] = [undefined, 'deep'];
    const contents = ['second', 'first', deep, 'second', deep, none, none, none, none];
    expect(await contentsOf(tar, names)).toEqual(contents);
  });

  const deep = (at: number): Member => ({ pax: { path: `${at}/${'nnn/'.repeat(1000)}x` } });
  const target = (at: number): Member => {
    return { name: 'a', type: '2', pax: { linkpath: 't'.repeat(4000) + at } };
  };
  test.each([
    ['names of folders', deep, 7, 9],
    ['targets of links', target, 4000, 4500],
  ])('do not make us hold %s without end', async (_, nth, few, many) => {
    const made = Array.from({ length: many }, (_, at) => nth(at));
    const enough = archive(...made.slice(0, few), { name: 'b', content: 'b' });
    expect(await contentsOf(enough, ['b'])).toEqual(['b']);
    await expect(contentsOf(archive(...made), [])).rejects.toMatchObject({
      code: 'VMF_IMAGE_INVALID',
      message: expect.stringContaining('its names are too long'),
    });
  });

  const long = 'c'.repeat(600 * 1024);
  test.each([
    ['for one entry', paxMember('x', { comment: long }), 2],
    ['for all entries', paxMember('g', { comment: long }), 2],
    ['of sparse offsets', paxMember('x', { 'GNU.sparse.offset': '7'.repeat(1000) }), 1100],
  ])('headers without end %s are refused', async (_, header, count) => {
    const path = scratch.file('headers.tar');
    const headers: Buffer[] = Array.from({ length: count }, () => header);
    writeFileSync(path, archive(...headers, { name: 'manifest.json', content: '[]' }));
    expect(await failureOf(path)).toMatchObject({
      code: 'VMF_IMAGE_INVALID',
      message: expect.stringContaining('more than limits.headerBytes'),
    });
  });
});

/** The map of a sparse file in PAX format 1.0, and its content. */
function sparseContent(numbers: string): Buffer {
  return Buffer.concat([Buffer.from(`1\n${numbers}\n`.padEnd(512, '\0')), Buffer.from('abc')]);
}

/** The same in a header of old GNU tar. */
function oldMap(header: Buffer): void {
  header.write('00000000000\x0000000000003', 386, 'latin1');
  header.write('00000000003', 483, 'latin1');
}

describe('folders', () => {
  const secret = Buffer.from('not for everybody');
  const config = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: [digestOf(secret)] },
    }),
  );

  /** A folder as `docker save` would leave it unpacked, with a layer and a config that it should not reach beside it. */
  function makeFolder(entry: { Config: string; Layers: string[] }): string {
    const folder = scratch.file('folder');
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(`${folder}/inside`, { recursive: true });
    writeFileSync(scratch.file('secret'), secret);
    writeFileSync(scratch.file('config.json'), config);
    writeFileSync(`${folder}/config.json`, config);
    writeFileSync(`${folder}/inside/layer`, secret);
    symlinkSync(scratch.file('secret'), `${folder}/absolute`);
    symlinkSync('../secret', `${folder}/relative`);
    symlinkSync('..', `${folder}/up`);
    symlinkSync('inside/layer', `${folder}/link`);
    const manifest = [{ RepoTags: ['some:tag'], ...entry }];
    writeFileSync(`${folder}/manifest.json`, JSON.stringify(manifest));
    return folder;
  }

  test.each([
    ['../secret'],
    ['inside/../../secret'],
    [scratch.file('secret')],
    ['absolute'],
    ['relative'],
    ['up/secret'],
    ['up/folder/../secret'],
    ['a\0b'],
  ])('a layer at %j is not read', async (layer) => {
    const folder = makeFolder({ Config: 'config.json', Layers: [layer] });
    expect(await failureOf(folder)).toMatchObject({
      code: 'VMF_IMAGE_INVALID',
      message: expect.stringContaining('leads out of the folder'),
    });
  });

  test('a config outside is not read', async () => {
    for (const name of ['../config.json', scratch.file('config.json'), 'up/config.json']) {
      const folder = makeFolder({ Config: name, Layers: ['inside/layer'] });
      expect(await failureOf(folder)).toMatchObject({ code: 'VMF_IMAGE_INVALID' });
    }
  });

  test('links within the folder are followed, also when the folder is reached through one', async () => {
    const folder = makeFolder({ Config: 'config.json', Layers: ['up/folder/link'] });
    symlinkSync(folder, scratch.file('alias'));
    const store = await ImageStore.open({ dir: scratch.file('links') });
    const image = await store.importFrom(scratch.file('alias'));
    expect(image.layers.map(({ diffId }) => diffId)).toEqual([digestOf(secret)]);
  });

  test('a blob of a layout that is a link out of it is not read', async () => {
    makeLayout(scratch, 'layout', 1000);
    const index = JSON.parse(readFileSync(scratch.file('layout', 'index.json'), 'utf8'));
    const hex = index.manifests[0].digest.slice(7);
    const blob = scratch.file('layout', 'blobs', 'sha256', hex);
    run('mv', blob, scratch.file('blob'));
    symlinkSync(scratch.file('blob'), blob);
    expect(await failureOf(scratch.file('layout'))).toMatchObject({ code: 'VMF_IMAGE_INVALID' });
  });
});
