// Images made by independent tools from Debian (umoci, skopeo, tar), for tests of what reads them.

import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { StoredImage } from '#src/oci/image.js';

/** Runs a tool; a missing one is a failure that names it. */
export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** A folder that is gone after the test file. */
export class Scratch {
  readonly path = mkdtempSync(join(tmpdir(), 'vmfork-oci-'));

  file(...names: string[]): string {
    return join(this.path, ...names);
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Bytes that do not compress, the same for the same seed. */
export function noise(seed: string, sizeBytes: number): Buffer {
  const blocks = Array.from({ length: Math.ceil(sizeBytes / 32) }, (_, at) =>
    createHash('sha256').update(`${seed} ${at}`).digest(),
  );
  return Buffer.concat(blocks).subarray(0, sizeBytes);
}

/** The layers of the image that `makeLayout` makes, as its tar files. */
export interface Layers {
  readonly paths: readonly string[];
  readonly diffIds: readonly string[];
}

/**
 * An OCI layout with one image of two gzip layers, tag `v1`: `umoci raw add-layer` compresses the tar files given to it.
 * The first holds `sizeBytes` of noise.
 */
export function makeLayout(scratch: Scratch, name: string, sizeBytes = 300_000): Layers {
  const layout = scratch.file(name);
  run('umoci', 'init', '--layout', layout);
  run('umoci', 'new', '--image', `${layout}:v1`);
  const paths = [0, 1].map((at) => {
    const folder = scratch.file(`${name}-layer${at}`);
    mkdirSync(join(folder, 'etc'), { recursive: true });
    writeFileSync(join(folder, 'etc', `file${at}`), noise(`${name} ${at}`, at ? 1000 : sizeBytes));
    const path = `${folder}.tar`;
    run('tar', '--sort=name', '--mtime=@0', '-cf', path, '-C', folder, '.');
    run('umoci', 'raw', 'add-layer', '--image', `${layout}:v1`, path);
    return path;
  });
  const settings = ['--config.cmd=/bin/sh', '--config.env=A=b', '--config.user=1000:100'];
  run('umoci', 'config', '--image', `${layout}:v1`, ...settings, '--config.workingdir=/etc');
  return { paths, diffIds: paths.map((path) => digestOf(readFileSync(path))) };
}

/** A copy of an image by skopeo: `from` and `to` in its notation. */
export async function skopeo(from: string, to: string, ...options: string[]): Promise<void> {
  // Not synchronous: it may have to ask a server of this process.
  await promisify(execFile)('skopeo', [
    ...['--insecure-policy', 'copy', '--quiet'],
    ...options,
    ...[from, to],
  ]);
}

export const digestOf = (bytes: Uint8Array) =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** All of an opened layer. */
export async function readLayer(image: StoredImage, index: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of await image.openLayer(index)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}
