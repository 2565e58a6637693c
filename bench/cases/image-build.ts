// How long a root filesystem image takes to build from the one layer of a real Debian, 170 MB, for every format in which
// registries keep layers, digests verified on the way. mmdebstrap makes the layer once; it is kept beside other caches.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { cacheDirectory } from '#src/kvm/guest.js';
import { openLayerStream } from '#src/oci/layer-stream.js';
import type { Compression } from '#src/oci/media-types.js';
import { buildRootfs, type LayerSource } from '#src/oci/rootfs/index.js';
import type { BenchCase } from '../harness/case.js';
import { msSince, now } from '../harness/clock.js';

const run = promisify(execFile);

const MS_PER_SECOND = 1000;
const RELEASE = 'bookworm';

/** The formats, and what makes a file of each from the plain one. */
const FORMATS: readonly {
  metric: string;
  compression: Compression;
  suffix: string;
  packer: string;
}[] = [
  { metric: 'plain_s', compression: 'none', suffix: '', packer: '' },
  { metric: 'gzip_s', compression: 'gzip', suffix: '.gz', packer: 'gzip -n' },
  { metric: 'zstd_s', compression: 'zstd', suffix: '.zst', packer: 'zstd -q' },
];

interface Subject {
  metric: string;
  layer: LayerSource;
}

async function prepare(folder: string, progress: (text: string) => void): Promise<Subject[]> {
  await mkdir(folder, { recursive: true });
  const plain = plainPath(folder);
  if (!existsSync(plain)) {
    progress(`making ${plain} with mmdebstrap`);
    const temporary = join(folder, 'unfinished.tar');
    await rm(temporary, { force: true });
    await run('mmdebstrap', ['--variant=minbase', RELEASE, temporary]);
    await rename(temporary, plain);
  }
  const diffId = await digestOf(plain);
  const subjects: Subject[] = [];
  for (const { metric, compression, suffix, packer } of FORMATS) {
    const path = plain + suffix;
    if (packer !== '') await run('sh', ['-ec', `${packer} <"$1" >"$2"`, 'sh', plain, path]);
    const packed = { path, compression, digest: await digestOf(path), diffId };
    subjects.push({ metric, layer: { open: () => openLayerStream(packed) } });
  }
  return subjects;
}

const plainPath = (folder: string) => join(folder, `debian-${RELEASE}.tar`);

async function digestOf(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return `sha256:${hash.digest('hex')}`;
}

export const imageBuild: BenchCase = {
  name: 'image-build',
  summary:
    'a root filesystem image from the layer of a Debian, per format of the layer, in seconds',
  defaultN: 5,
  async measure({ n, samples, progress }) {
    const folder = join(cacheDirectory(), 'bench');
    const subjects = await prepare(folder, progress);
    const output = join(folder, 'image-build.erofs');
    let built = { sizeBytes: 0, entries: 0 };
    for (let index = 0; index < n; index++) {
      for (const { metric, layer } of subjects) {
        const start = now();
        built = await buildRootfs({ layers: [layer], output });
        samples.add(metric, 's', msSince(start) / MS_PER_SECOND);
      }
      progress(`${index + 1} of ${n}`);
    }
    await rm(output);
    const { size } = await stat(plainPath(folder));
    return { layer_bytes: size, image_bytes: built.sizeBytes, entries: built.entries };
  },
};
