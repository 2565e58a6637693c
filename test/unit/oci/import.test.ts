// Imports of what umoci, skopeo and tar write: OCI layouts as folders and archives, docker save archives.

import { createReadStream, createWriteStream, readFileSync, writeFileSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { ImageStore, type ImportOptions } from '#src/oci/store.js';
import {
  digestOf,
  type Layers,
  makeLayout,
  readLayer,
  run,
  Scratch,
  skopeo,
} from '../../helpers/oci/images.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
let layers: Layers;
let stores = 0;

const open = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });

async function importInto(store: ImageStore, name: string, options: ImportOptions = {}) {
  return store.importFrom(scratch.file(name), options);
}

/** What `umoci` calls the manifest of an image. */
function manifestOf(layout: string): string {
  const { manifests } = JSON.parse(readFileSync(scratch.file(layout, 'index.json'), 'utf8'));
  return manifests[0].digest;
}

beforeAll(async () => {
  layers = makeLayout(scratch, 'app');
  const source = `oci:${scratch.file('app')}:v1`;
  run('tar', '-cf', scratch.file('layout.tar'), '-C', scratch.file('app'), '.');
  await skopeo(source, `oci-archive:${scratch.file('archive.tar')}:v1`);
  await skopeo(source, `docker-archive:${scratch.file('docker.tar')}:team/app:v2`);
  const zstd = ['--dest-compress-format', 'zstd', '--dest-compress'];
  await skopeo(source, `dir:${scratch.file('plain')}`, '--dest-decompress');
  await skopeo(`dir:${scratch.file('plain')}`, `oci:${scratch.file('zstd')}:v1`, ...zstd);
  const packed = createWriteStream(scratch.file('docker.tar.gz'));
  await pipeline(createReadStream(scratch.file('docker.tar')), createGzip(), packed);
}, 60_000);

afterAll(() => scratch.remove());

describe('what independent tools wrote', () => {
  test.each([
    ['app', 'docker.io/library/app:v1'],
    ['zstd', 'docker.io/library/zstd:v1'],
    ['layout.tar', 'docker.io/library/layout:v1'],
    ['archive.tar', 'docker.io/library/archive:v1'],
    ['docker.tar', 'docker.io/team/app:v2'],
    ['docker.tar.gz', 'docker.io/team/app:v2'],
  ])('%s is imported as %s', async (file, name) => {
    const store = await open();
    const image = await importInto(store, file);
    expect(image.reference.toString()).toBe(name);
    expect(image.layers.map(({ diffId }) => diffId)).toEqual(layers.diffIds);
    for (const [at, path] of layers.paths.entries()) {
      expect((await readLayer(image, at)).equals(readFileSync(path))).toBe(true);
    }
    expect(image.config.config).toMatchObject({ Cmd: ['/bin/sh'], User: '1000:100' });
    expect((await store.inspect(name)).digest).toBe(image.digest);
  });

  test('a layout keeps the digest of its manifest', async () => {
    expect((await importInto(await open(), 'app')).digest).toBe(manifestOf('app'));
  });

  test('docker archives give the same image each time, packed or not', async () => {
    const store = await open();
    const first = await importInto(store, 'docker.tar');
    const second = await importInto(store, 'docker.tar.gz', { reference: 'other' });
    expect(second.digest).toBe(first.digest);
    expect(second.reference.familiar()).toBe('other:latest');
    expect((await store.list()).map(({ reference }) => reference.familiar())).toEqual([
      'other:latest',
      'team/app:v2',
    ]);
  });

  test('of several images the one that is named is taken', async () => {
    run('umoci', 'tag', '--image', `${scratch.file('app')}:v1`, 'second');
    const store = await open();
    await expect(importInto(store, 'app')).rejects.toMatchObject({
      code: 'VMF_OPTIONS',
      message: expect.stringContaining('app:v1, app:second'),
    });
    const image = await importInto(store, 'app', { reference: 'app:second' });
    expect(image.reference.familiar()).toBe('app:second');
    run('umoci', 'rm', '--image', `${scratch.file('app')}:second`);
  });

  test('an image for another platform is refused', async () => {
    const importing = importInto(await open(), 'app', { platform: 'linux/arm64' });
    await expect(importing).rejects.toMatchObject({ code: 'VMF_IMAGE_UNSUPPORTED' });
  });

  test('of an index the image for the platform is taken', async () => {
    run('cp', '-a', scratch.file('app'), scratch.file('multi'));
    run('umoci', 'tag', '--image', `${scratch.file('multi')}:v1`, 'arm');
    run('umoci', 'config', '--image', `${scratch.file('multi')}:arm`, '--architecture=arm64');
    const file = scratch.file('multi', 'index.json');
    const index = JSON.parse(readFileSync(file, 'utf8'));
    const [amd64, arm64] = index.manifests.map(
      ({ annotations: _, ...entry }: object & { annotations: unknown }) => entry,
    );
    const inner = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.index.v1+json',
        manifests: [
          { ...arm64, platform: { os: 'linux', architecture: 'arm64', variant: 'v8' } },
          { ...amd64, platform: { os: 'linux', architecture: 'amd64' } },
          { ...amd64, platform: { os: 'unknown', architecture: 'unknown' } },
        ],
      }),
    );
    writeFileSync(scratch.file('multi', 'blobs', 'sha256', digestOf(inner).slice(7)), inner);
    const mediaType = 'application/vnd.oci.image.index.v1+json';
    index.manifests = [
      {
        mediaType,
        digest: digestOf(inner),
        size: inner.length,
        annotations: { 'org.opencontainers.image.ref.name': 'example.com/multi:v1' },
      },
    ];
    writeFileSync(file, JSON.stringify(index));
    const store = await open();
    const image = await importInto(store, 'multi');
    expect(image.digest).toBe(amd64.digest);
    expect(image.reference.toString()).toBe('example.com/multi:v1');
    const other = await importInto(store, 'multi', { platform: 'linux/arm64' });
    expect(other.config.architecture).toBe('arm64');
    await expect(importInto(store, 'multi', { platform: 'linux/s390x' })).rejects.toMatchObject({
      code: 'VMF_IMAGE_NOT_FOUND',
      message: expect.stringContaining('linux/arm64/v8, linux/amd64'),
    });
  });
});

describe('what is broken', () => {
  test.each([
    ['missing', 'VMF_IMAGE_NOT_FOUND'],
    ['/dev/null', 'VMF_IMAGE_INVALID'],
    ['empty', 'VMF_IMAGE_INVALID'],
    ['text', 'VMF_IMAGE_INVALID'],
    ['cut.tar', 'VMF_IMAGE_INVALID'],
    ['cut.tar.gz', 'VMF_IMAGE_INVALID'],
    ['damaged.tar', 'VMF_IMAGE_DIGEST'],
  ])('%s is refused with %s, and nothing is left', async (name, code) => {
    const docker = readFileSync(scratch.file('docker.tar'));
    writeFileSync(scratch.file('empty'), '');
    writeFileSync(scratch.file('text'), 'x'.repeat(2000));
    writeFileSync(scratch.file('cut.tar'), docker.subarray(0, docker.length / 2));
    const packed = readFileSync(scratch.file('docker.tar.gz'));
    writeFileSync(scratch.file('cut.tar.gz'), packed.subarray(0, packed.length / 2));
    const noise = docker.indexOf(readFileSync(layers.paths[0] as string).subarray(5120, 5184));
    const damaged = Buffer.from(docker);
    damaged[noise] = (damaged[noise] ?? 0) ^ 1;
    writeFileSync(scratch.file('damaged.tar'), damaged);
    const store = await open();
    const path = name.startsWith('/') ? name : scratch.file(name);
    await expect(store.importFrom(path)).rejects.toMatchObject({ code });
    expect(await store.list()).toEqual([]);
    await store.gc();
    expect(run('find', store.dir, '-type', 'f').trim()).toBe(`${store.dir}/store.json`);
  });
});
