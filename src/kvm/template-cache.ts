// A snapshot of a freshly booted guest, kept on disk between runs: the guest is booted once, not once a run.

import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VmforkError } from '../errors.js';
import { addonBuild } from '../native.js';
import { BOOT_OPTIONS, type BootOptions, checkOptions } from '../options.js';
import { VERSION } from '../version.js';
import { Engine, probeHost } from './engine.js';
import { cacheDirectory, findGuest } from './guest.js';
import { HostLock } from './host-lock.js';
import { discard, publish, removeAbandoned, tryLoad } from './saved-cache.js';
import { ENGINE_OPTION, type Snapshot } from './snapshot.js';
import { shapeOf, Template } from './template.js';

const HASH_DIGITS = 16;

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
  // Guests that boot side by side only delay each other: of all callers, also in other processes, one boots it.
  const lock = join(parent, `lock-${family}`);
  await using _held = await HostLock.take(lock, 'cached', options.signal);
  const made = await tryLoad(directory, engine);
  if (made) return made;
  await removeOutdated(parent, family);
  return bootAndPublish({ ...options, engine }, directory);
}

async function bootAndPublish(
  options: CachedOptions & { engine: Engine },
  directory: string,
): Promise<Snapshot> {
  await using template = await Template.boot(options);
  if (options.kernelPath === undefined && options.diskPaths === undefined) await warmUp(template);
  const snapshot = await template.snapshot();
  await publish(snapshot, directory);
  // The same as on the next call: a snapshot that is on disk under its lasting name.
  const published = await tryLoad(directory, options.engine);
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
  template.warmed = true;
}

/** @internal One family per set of options; its member changes with the guest, the host and this library. */
export async function entryNames(
  options: CachedOptions,
): Promise<{ family: string; member: string }> {
  // What is not left in the snapshot makes no other one.
  const {
    engine: _,
    signal: _signal,
    bootTimeoutMs: _limit,
    consoleBytes: _own,
    ...given
  } = options;
  const shape = { ...given, ...shapeOf(given) };
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

/** Other members of the family, and what processes that died left behind. */
async function removeOutdated(parent: string, family: string): Promise<void> {
  await removeAbandoned(parent);
  for (const name of await readdir(parent)) {
    if (name.startsWith(`${family}-`)) await discard(join(parent, name));
  }
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, HASH_DIGITS);
}
