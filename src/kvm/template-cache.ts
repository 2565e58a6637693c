// A snapshot of a freshly booted guest, kept on disk between runs: the guest is booted once, not once a run.

import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { debug } from '../diagnostics.js';
import { VmforkError } from '../errors.js';
import { addonBuild } from '../native.js';
import { BOOT_OPTIONS, type BootOptions, checkOptions } from '../options.js';
import { VERSION } from '../version.js';
import { Engine, probeHost } from './engine.js';
import { cacheDirectory, findGuest } from './guest.js';
import { guestRest } from './rest.js';
import { ENGINE_OPTION, Snapshot } from './snapshot.js';
import { Template } from './template.js';

const HASH_DIGITS = 16;
// A saving that died leaves its work folder behind; after this long nobody can still be writing it.
const ABANDONED_AFTER_MS = 60 * 60 * 1000;
const STALE: readonly string[] = [
  'VMF_SNAPSHOT_INVALID',
  'VMF_SNAPSHOT_INCOMPATIBLE',
  'VMF_KERNEL_NOT_FOUND',
];

/** Options of `Snapshot.cached()`: those of `Template.boot()`. */
export type CachedOptions = BootOptions & { engine?: Engine | undefined };

/** See `Snapshot.cached()`. */
export async function cachedSnapshot(options: CachedOptions = {}): Promise<Snapshot> {
  checkOptions('cached', { ...BOOT_OPTIONS, ...ENGINE_OPTION }, options);
  const engine = options.engine ?? Engine.default();
  const parent = join(cacheDirectory(), 'templates');
  const { family, member } = await entryNames(options);
  const directory = join(parent, `${family}-${member}`);
  const found = await tryLoad(directory, engine);
  if (found) return found;
  await mkdir(parent, { recursive: true });
  await removeOutdated(parent, family);
  await using template = await Template.boot({ ...options, engine });
  if (options.kernelPath === undefined && options.diskPaths === undefined) await warmUp(template);
  const snapshot = await template.snapshot();
  await publish(snapshot, parent, directory);
  // The same as on the next call: a snapshot that is on disk under its lasting name.
  const published = await tryLoad(directory, engine);
  if (!published) return snapshot;
  await snapshot.destroy();
  return published;
}

/**
 * Brings the userland into the guest's page cache. What is read before the snapshot is memory that all clones share; what
 * is not, each clone would read from the disk for itself, which costs seconds where the guest's kernel is interpreted.
 */
async function warmUp(template: Template): Promise<void> {
  await template.exec(['/usr/bin/true']);
  await template.exec(['dd', 'if=/usr/bin/busybox', 'of=/dev/null', 'bs=64k']);
  await template.prepare();
  await guestRest();
}

/** @internal One family per set of options; its member changes with the guest, the host and this library. */
export async function entryNames(
  options: CachedOptions,
): Promise<{ family: string; member: string }> {
  const { engine: _engine, signal: _signal, bootTimeoutMs: _limit, ...shape } = options;
  const own = options.kernelPath ?? options.initrdPath ?? options.diskPaths;
  const files = [options.kernelPath, options.initrdPath, ...(options.diskPaths ?? [])];
  const guest = options.kernelPath && options.initrdPath ? '' : findGuest().id;
  const facts = [
    VERSION,
    addonBuild(),
    guest,
    own ? await fileFacts(files) : '',
    await hostFacts(),
  ];
  return {
    family: hash(JSON.stringify(shape, Object.keys(shape).sort())),
    member: hash(facts.join('\n')),
  };
}

async function fileFacts(paths: (string | undefined)[]): Promise<string> {
  const given = paths.filter((path) => path !== undefined);
  const facts = await Promise.all(
    given.map(async (path) => {
      const { size, mtimeMs } = await stat(path).catch((cause) => {
        throw new VmforkError('VMF_KERNEL_NOT_FOUND', path, { cause });
      });
      return `${path} ${size} ${mtimeMs}`;
    }),
  );
  return facts.join('\n');
}

/** What a snapshot depends on: the kind of KVM, and the CPU as the guest sees it. */
async function hostFacts(): Promise<string> {
  const { kind, cpuVendor } = probeHost();
  const cpuinfo = await readFile('/proc/cpuinfo', 'utf8');
  const first = cpuinfo.split('\n\n', 1)[0] ?? '';
  const lines = first.split('\n').filter((line) => /^(model|stepping|flags)\b/.test(line));
  return [kind, cpuVendor, ...lines].join('\n');
}

/** @internal Loads what fits; removes what does not. */
export async function tryLoad(directory: string, engine: Engine): Promise<Snapshot | null> {
  const exists = await stat(directory).catch(() => null);
  if (!exists) return null;
  try {
    return await Snapshot.load(directory, { engine });
  } catch (error) {
    if (!VmforkError.is(error) || !STALE.includes(error.code)) throw error;
    debug('cached template is not usable: %s', error.message);
    await rm(directory, { recursive: true, force: true });
    return null;
  }
}

/** Other members of the family, and what saving processes that died left behind. */
async function removeOutdated(parent: string, family: string): Promise<void> {
  for (const name of await readdir(parent)) {
    const path = join(parent, name);
    const abandoned = name.endsWith('.tmp') && (await ageMs(path)) > ABANDONED_AFTER_MS;
    const outdated = name.startsWith(`${family}-`) && !name.endsWith('.tmp');
    if (abandoned || outdated) await rm(path, { recursive: true, force: true });
  }
}

async function ageMs(path: string): Promise<number> {
  const found = await stat(path).catch(() => null);
  return found ? Date.now() - found.mtimeMs : 0;
}

/**
 * @internal Saves under a name of its own, lets `complete` add to it, then renames: another process may be doing the same,
 * and either result is good.
 */
export async function publish(
  snapshot: Snapshot,
  parent: string,
  directory: string,
  complete: (work: string) => Promise<void> = async () => {},
): Promise<void> {
  const work = join(parent, `${process.pid}-${performance.now().toString(36)}.tmp`);
  try {
    await snapshot.save(work);
    await complete(work);
    await rename(work, directory).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, HASH_DIGITS);
}
