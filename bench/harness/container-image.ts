// The image of the container cases: the built-in busybox, also with 20 MiB to read; and templates in which it is warm.

import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { access, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  buildRootfs,
  findImage,
  ImageStore,
  type PreparedRootfs,
  prepareRootfs,
  type Rootfs,
  type Snapshot,
} from '#src/index.js';
import { cacheDirectory } from '#src/kvm/guest.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;

/** Where the image with much to read has it, and how much. */
export const DATA = { path: '/data', sizeMiB: 20 } as const;

/** The built-in image, built before the time. */
export async function busyboxRootfs(): Promise<PreparedRootfs> {
  return prepareRootfs(await findImage(await ImageStore.open(), 'busybox'));
}

/** The built-in image and a file of pages that are all different; made once. */
export async function dataRootfs(): Promise<Rootfs> {
  const folder = join(cacheDirectory(), 'bench');
  const path = join(folder, `busybox-data-${DATA.sizeMiB}.erofs`);
  if (await access(path).catch(() => true)) await makeDataRootfs(folder, path);
  return { path };
}

async function makeDataRootfs(folder: string, output: string): Promise<void> {
  const image = await findImage(await ImageStore.open(), 'busybox');
  const work = await mkdtemp(join(tmpdir(), 'vmfork-bench-'));
  try {
    await mkdir(folder, { recursive: true });
    const name = DATA.path.slice(1);
    await writeFile(join(work, name), distinctPages(DATA.sizeMiB * MIB));
    const tar = join(work, 'layer.tar');
    await run('tar', ['-cf', tar, '-C', work, name]);
    const own = image.layers.map((_, index) => ({ open: () => image.openLayer(index) }));
    const layers = [...own, { open: async () => createReadStream(tar) }];
    await buildRootfs({ layers, output });
  } finally {
    await rm(work, { recursive: true });
  }
}

function distinctPages(sizeBytes: number): Buffer {
  const bytes = Buffer.alloc(sizeBytes, 1);
  for (let offset = 0; offset < sizeBytes; offset += 4096) bytes.writeUInt32LE(offset + 1, offset);
  return bytes;
}

/** A snapshot with the image attached in which a container has run this once. */
export async function warmedSnapshot(
  base: Snapshot,
  rootfs: Rootfs,
  argv: readonly string[],
): Promise<Snapshot> {
  await using machine = await base.fork();
  await machine.attach(rootfs);
  const { exitCode, stderr } = await machine.run({ argv, entrypoint: [], keep: true });
  if (exitCode !== 0) throw new Error(`${argv.join(' ')}: exit code ${exitCode}: ${stderr}`);
  return await machine.snapshot();
}
