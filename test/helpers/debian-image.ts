// A real Debian with interpreters and a server, made by mmdebstrap and umoci once and kept in the cache.
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ImageStore,
  type PreparedRootfs,
  prepareRootfs,
  type StoredImage,
  VmforkError,
} from 'vmfork';
import { cacheDirectory } from '#src/kvm/guest.js';
import { run } from './oci/images.js';

const RECIPE = {
  release: 'bookworm',
  packages: ['python3-minimal', 'redis-server'],
  config: ['--config.cmd=bash', '--config.env=LANG=C.UTF-8', '--config.workingdir=/srv'],
};

/** Downloads some 60 MB of packages when it is made: give it minutes. */
export async function debianRootfs(): Promise<PreparedRootfs> {
  const folder = join(cacheDirectory(), 'test-images');
  const key = createHash('sha256').update(JSON.stringify(RECIPE)).digest('hex').slice(0, 16);
  const store = await ImageStore.open({ dir: join(folder, 'store') });
  const reference = `debian:${key}`;
  const image = (await stored(store, reference)) ?? (await make(store, reference));
  return prepareRootfs(image, { dir: join(folder, 'rootfs') });
}

async function stored(store: ImageStore, reference: string): Promise<StoredImage | null> {
  try {
    return await store.inspect(reference);
  } catch (error) {
    if (!VmforkError.is(error) || error.code !== 'VMF_IMAGE_NOT_FOUND') throw error;
    return null;
  }
}

async function make(store: ImageStore, reference: string): Promise<StoredImage> {
  const work = mkdtempSync(join(tmpdir(), 'vmfork-debian-'));
  try {
    const tar = join(work, 'debian.tar');
    const include = `--include=${RECIPE.packages.join(',')}`;
    run('mmdebstrap', '--quiet', '--variant=minbase', include, RECIPE.release, tar);
    const layout = join(work, 'layout');
    const image = ['--image', `${layout}:v1`];
    run('umoci', 'init', '--layout', layout);
    run('umoci', 'new', ...image);
    run('umoci', 'raw', 'add-layer', ...image, tar);
    run('umoci', 'config', ...image, ...RECIPE.config);
    return await store.importFrom(layout, { reference });
  } finally {
    rmSync(work, { recursive: true });
  }
}
