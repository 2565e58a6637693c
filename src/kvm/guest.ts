// The default guest: kernel, initramfs with the agent, and userland, built by guest/build.mjs into a cache outside the tree.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { VmforkError } from '../errors.js';
import type { HostKind } from '../native.js';

/** A built guest. */
export interface Guest {
  /** Hash over everything it was built from. */
  id: string;
  kernelPath: string;
  initrdPath: string;
  /** Read-only image, mounted at /usr. */
  userlandPath: string;
  /** An OCI image of busybox, to run containers from where there is no registry. */
  imagePath: string;
  kernelRelease: string;
  /** Command line words for every host, and those for PVM hosts besides. */
  cmdline: { common: string; pvm: string };
}

interface Manifest {
  kernelRelease: string;
  cmdline: { common: string; pvm: string };
  kernel: { path: string };
  initrd: { path: string };
  userland: { path: string };
  image: { path: string };
}

type BuildGuest = (options: {
  onProgress?: (line: string) => void;
  kernelTarball?: string;
}) => Promise<{ manifestPath: string; cached: boolean }>;

/** Where built artefacts and templates are kept: $VMFORK_CACHE_DIR, else $XDG_CACHE_HOME/vmfork, else ~/.cache/vmfork. */
export function cacheDirectory(): string {
  const { VMFORK_CACHE_DIR, XDG_CACHE_HOME } = process.env;
  return resolve(VMFORK_CACHE_DIR || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'vmfork'));
}

/** The guest that was built last. Throws `VMF_GUEST_MISSING` when there is none. */
export function findGuest(): Guest {
  const directory = join(cacheDirectory(), 'guest');
  for (const path of manifestsNewestFirst(directory)) {
    const guest = readGuest(path);
    if (guest) return guest;
  }
  throw new VmforkError('VMF_GUEST_MISSING', `no guest in ${directory}`);
}

/** Builds the guest unless it is there already; takes minutes the first time. */
export async function buildGuest(
  options: { onProgress?: (line: string) => void; kernelTarball?: string } = {},
): Promise<Guest> {
  const script = fileURLToPath(new URL('../../guest/build.mjs', import.meta.url));
  const { buildGuest: build } = (await import(pathToFileURL(script).href)) as {
    buildGuest: BuildGuest;
  };
  const { manifestPath } = await build(options);
  const guest = readGuest(manifestPath);
  if (!guest)
    throw new VmforkError('VMF_GUEST_MISSING', `${manifestPath} names files that are gone`);
  return guest;
}

/** The kernel command line for a kind of host. */
export function commandLine(guest: Pick<Guest, 'cmdline'>, host: HostKind, extra = ''): string {
  const { common, pvm } = guest.cmdline;
  return [common, host === 'pvm' ? pvm : '', extra].filter(Boolean).join(' ');
}

function manifestsNewestFirst(directory: string): string[] {
  try {
    const names = readdirSync(directory).filter((name) => /^manifest-\w+\.json$/.test(name));
    const paths = names.map((name) => join(directory, name));
    const timeOf = new Map(paths.map((path) => [path, statSync(path).mtimeMs]));
    return paths.sort((a, b) => (timeOf.get(b) ?? 0) - (timeOf.get(a) ?? 0));
  } catch {
    return []; // No cache yet.
  }
}

/** Null when a part has been removed. Parts lie beside their manifest, wherever the cache was moved to. */
function readGuest(manifestPath: string): Guest | null {
  const partOf = ({ path }: { path: string }) =>
    join(dirname(manifestPath), basename(dirname(path)), basename(path));
  try {
    const manifest = JSON.parse(readFileSync(manifestPath, 'utf8')) as Manifest;
    const guest = {
      id: basename(manifestPath, '.json').replace('manifest-', ''),
      kernelPath: partOf(manifest.kernel),
      initrdPath: partOf(manifest.initrd),
      userlandPath: partOf(manifest.userland),
      imagePath: partOf(manifest.image),
      kernelRelease: manifest.kernelRelease,
      cmdline: manifest.cmdline,
    };
    const { kernelPath, initrdPath, userlandPath, imagePath } = guest;
    for (const path of [kernelPath, initrdPath, userlandPath, imagePath]) statSync(path);
    return guest;
  } catch {
    return null;
  }
}
