// Folders and archives made to do harm: an import refuses them with a typed error and keeps nothing of them.

import { mkdirSync, readFileSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { readWhole, TarArchive } from '#src/oci/archive.js';
import { ImageStore } from '#src/oci/store.js';
import { digestOf, makeLayout, run, Scratch } from '../../helpers/oci/images.js';
import { archive, paxMember } from './rootfs/tar-maker.js';
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
      message: expect.stringContaining('pax headers are too large'),
    });
  });
});

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
