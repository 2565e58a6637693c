// Fuzz targets for imports: the index of a tar file, and whole images as archives and folders.

import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, expect } from 'vitest';
import { TarArchive } from '#src/oci/archive.js';
import { resolveLimits } from '#src/oci/rootfs/limits.js';
import { TarReader, type TarSink } from '#src/oci/rootfs/tar-reader.js';
import { ImageStore } from '#src/oci/store.js';
import { spoiled } from '../helpers/oci/documents.js';
import { digestOf, Scratch } from '../helpers/oci/images.js';
import { archive } from '../unit/oci/rootfs/tar-maker.js';
import { anyArchive, anyPath, damagedBytes } from './archives.js';
import { fuzz, outcomeOf } from './fuzz.js';

const scratch = new Scratch();
afterAll(() => scratch.remove());

/** The files of an archive as the reader of layers gives them when it sees every byte, the last of each name. */
function filesOf(tar: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>();
  let pieces: Buffer[] | undefined;
  let name = '';
  const sink: TarSink = {
    congested: false,
    member: ({ path, type }) => {
      const isFile = type === 'file';
      name = path
        .split('/')
        .filter((part) => part !== '' && part !== '.')
        .join('/');
      pieces = isFile ? [] : undefined;
      files.delete(name); // A link, which leads to another one of these.
    },
    data: (bytes) => {
      pieces?.push(bytes);
      return bytes.length;
    },
    end: () => {
      if (pieces) files.set(name, Buffer.concat(pieces));
    },
  };
  const reader = new TarReader(0, sink, resolveLimits());
  reader.feed(tar, 0);
  reader.finish();
  return files;
}

fuzz(
  'the files of an archive lie where the reader of layers sees them, or it is refused',
  fc.tuple(anyArchive, fc.array(anyPath)),
  async ([tar, names]) => {
    const path = scratch.file('any.tar');
    writeFileSync(path, tar);
    await using handle = await open(path);
    const { value } = await outcomeOf(() => TarArchive.read(handle), /^VMF_IMAGE_INVALID$/);
    for (const name of ['a', 'a/b', 'b/c', ...names]) {
      const span = value?.find(name);
      if (!span) continue;
      expect(span.offsetBytes % 512).toBe(0);
      expect(span.offsetBytes + span.sizeBytes).toBeLessThanOrEqual(tar.length);
    }
    for (const [name, content] of value ? filesOf(tar) : []) {
      const span = value?.find(name) ?? { offsetBytes: -1, sizeBytes: 0 };
      const found = tar.subarray(span.offsetBytes, span.offsetBytes + span.sizeBytes);
      expect(span.offsetBytes >= 0 && found.equals(content)).toBe(true);
    }
  },
);

const secret = Buffer.from('beside the folder');
const layer = archive({ name: 'file', content: 'of the layer' });
const config = {
  architecture: 'amd64',
  os: 'linux',
  rootfs: { type: 'layers', diff_ids: [digestOf(layer)] },
};
const manifest = [{ Config: 'config.json', RepoTags: ['some:tag'], Layers: ['layer.tar'] }];
const layout = (bytes: Buffer) => ({
  schemaVersion: 2,
  config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...describe(bytes) },
  layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...describe(layer) }],
});
const describe = (bytes: Buffer) => ({ digest: digestOf(bytes), size: bytes.length });
const blobName = (bytes: Buffer) => `blobs/sha256/${digestOf(bytes).slice(7)}`;

const odd = (json: object) =>
  fc
    .oneof({ weight: 2, arbitrary: fc.constant(json) }, { weight: 1, arbitrary: spoiled(json) })
    .map((changed) => Buffer.from(JSON.stringify(changed)));
const name = fc.oneof(
  { weight: 4, arbitrary: fc.constant('layer.tar') },
  { weight: 2, arbitrary: anyPath },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      '../secret',
      'up/secret',
      'out',
      scratch.file('secret'),
      'n'.repeat(5000),
      'loop',
    ),
  },
);

/** Files of an archive of docker save. */
const saved = fc
  .tuple(odd(manifest), odd(config), name)
  .map(([index, configBytes, layerName]): [string, Buffer][] => [
    [
      'manifest.json',
      Buffer.from(index.toString().replace('"layer.tar"', JSON.stringify(layerName))),
    ],
    ['config.json', configBytes],
    ['layer.tar', layer],
  ]);
/** Files of an OCI layout. */
const laidOut = odd(config).chain((configBytes) =>
  odd(layout(configBytes)).chain((bytes) => {
    const entry = { mediaType: 'application/vnd.oci.image.manifest.v1+json', ...describe(bytes) };
    return odd({ schemaVersion: 2, manifests: [entry] }).map((index): [string, Buffer][] => [
      ['oci-layout', Buffer.from('{"imageLayoutVersion":"1.0.0"}')],
      ['index.json', index],
      ...[configBytes, bytes, layer].map((blob): [string, Buffer] => [blobName(blob), blob]),
    ]);
  }),
);
const files = fc.oneof(saved, laidOut);

const store = await ImageStore.open({ dir: scratch.file('store') });

/** Imports what lies at `path`: an image, or a typed error; the store is in order and nothing is where it does not belong. */
async function importAt(path: string): Promise<void> {
  const before = readdirSync(scratch.path);
  const codes = /^VMF_(IMAGE_(INVALID|UNSUPPORTED|NOT_FOUND|DIGEST)|OPTIONS)$/;
  const { value } = await outcomeOf(() => store.importFrom(path, { reference: 'a:b' }), codes);
  expect(readdirSync(scratch.path)).toEqual(before);
  for (const folder of ['temp', 'partial', 'leases']) {
    expect(readdirSync(join(store.dir, folder))).toEqual([]);
  }
  expect(existsSync(join(store.dir, blobName(secret)))).toBe(false);
  if (value) expect((await store.inspect('a:b')).digest).toBe(value.digest);
}

const packed = files.chain((all) => {
  const members = all.map(([each, content]) => ({ name: each, content }));
  return fc.tuple(damagedBytes(fc.constant(archive(...members))), fc.boolean());
});

fuzz('an archive is imported, or refused without a trace', packed, async ([tar, isPacked]) => {
  const path = scratch.file('image.tar');
  writeFileSync(path, isPacked ? gzipSync(tar, { level: 1 }) : tar);
  await importAt(path);
});

fuzz('a folder is imported, or refused, and nothing beside it is read', files, async (all) => {
  const folder = scratch.file('folder');
  rmSync(folder, { recursive: true, force: true });
  for (const [each, content] of all) {
    mkdirSync(dirname(join(folder, each)), { recursive: true });
    writeFileSync(join(folder, each), content);
  }
  writeFileSync(scratch.file('secret'), secret);
  symlinkSync('..', join(folder, 'up'));
  symlinkSync('../secret', join(folder, 'out'));
  symlinkSync('loop', join(folder, 'loop'));
  await importAt(folder);
});
