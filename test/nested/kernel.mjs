// The nested host's kernel: Debian's newest cloud image, downloaded once and unpacked, never installed.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from '../../scripts/lib/project.mjs';
import { Failure, mustRun } from '../../scripts/lib/run.mjs';

const folder = () => join(cacheDir(), 'nested');

/** { version, vmlinuz, modules } of the kernel in the cache, downloading it when there is none. */
export async function ensureKernel() {
  return findKernel() ?? (await downloadKernel());
}

export function findKernel() {
  const top = folder();
  if (!existsSync(top)) return undefined;
  const unpacked = readdirSync(top).filter((name) => name.startsWith('linux-image-'));
  const newest = unpacked.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).pop();
  return newest ? describe(join(top, newest)) : undefined;
}

function describe(path) {
  const version = readdirSync(join(path, 'lib/modules'))[0];
  const vmlinuz = join(path, `boot/vmlinuz-${version}`);
  return { version, vmlinuz, modules: join(path, 'lib/modules', version) };
}

async function downloadKernel() {
  const depends = await mustRun('apt-cache', ['depends', 'linux-image-cloud-amd64']);
  const name = /Depends: (linux-image-[\w.-]+)/.exec(depends)?.[1];
  if (!name) throw new Failure('apt knows no linux-image-cloud-amd64; run apt-get update first');
  const top = folder();
  const work = join(top, `download.${process.pid}`);
  mkdirSync(work, { recursive: true });
  try {
    await mustRun('apt-get', ['download', name], { cwd: work });
    const archive = readdirSync(work).find((file) => file.endsWith('.deb'));
    await mustRun('dpkg', ['-x', join(work, archive), join(work, 'unpacked')]);
    rmSync(join(top, name), { recursive: true, force: true });
    renameSync(join(work, 'unpacked'), join(top, name));
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return describe(join(top, name));
}
