// Gives a guest a root filesystem image: the disk goes into an empty drive, and the agent mounts it.

import { resolve } from 'node:path';
import { VmforkError } from '../errors.js';
import type { Machine } from '../kvm/machine.js';
import { checkOptions, type Rules, WAIT_OPTIONS } from '../options.js';
import { throwIfAborted, type WaitOptions } from '../waiting.js';
import type { RunConfig } from './merge-config.js';
import { mountRootfs, unmountRootfs } from './rootfs.js';
import { makeScratch } from './scratch.js';

/** A root filesystem to attach: the image file, and how the image says it is run. */
export interface Rootfs {
  /** An EROFS image, as `prepareRootfs()` writes it; squashfs and ext4 work too. */
  path: string;
  /** Entrypoint, Cmd, Env, User and so on of the image's config. Default: nothing is set. */
  config?: RunConfig | undefined;
}

/** Options of `vm.attach()`. */
export interface AttachOptions extends WaitOptions {
  /**
   * Where goes what the container writes: the guest's memory, a scratch disk of so many MiB (8 to 1048576) that is sparse
   * on the host and thrown away with the VM, or nowhere. Default `'memory'`.
   */
  writable?: 'memory' | { diskMiB: number } | false | undefined;
  /** With `writable: 'memory'`: most MiB that can be written. Default: half of the guest's memory. */
  upperMiB?: number | undefined;
  /** Names added to the container's /etc/hosts, each with its address. */
  hosts?: Readonly<Record<string, string>> | undefined;
  /** The whole of the container's /etc/resolv.conf. Default: empty, there is no network. */
  resolvConf?: string | undefined;
}

/** What a machine knows of the root filesystem that is mounted in it. */
export interface Attached {
  readonly path: string;
  readonly config: RunConfig;
  /** Whether the second drive holds a scratch disk. */
  readonly scratch: boolean;
}

const IMAGE_DRIVE = 0;
const SCRATCH_DRIVE = 1;
const MIB = 1024 * 1024;
const MOST_MIB = 1024 * MIB;

const isMiB = (value: unknown, least: number): boolean =>
  Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= MOST_MIB;

export const ATTACH_OPTIONS: Rules = {
  ...WAIT_OPTIONS,
  writable: {
    accepts: `'memory', false or { diskMiB } of 8 to ${MOST_MIB}`,
    test: (value) =>
      value === 'memory' ||
      value === false ||
      (typeof value === 'object' &&
        value !== null &&
        Object.keys(value).join() === 'diskMiB' &&
        isMiB((value as { diskMiB: unknown }).diskMiB, 8)),
  },
  upperMiB: {
    accepts: `an integer from 1 to ${MOST_MIB}`,
    test: (value) => isMiB(value, 1),
  },
  hosts: {
    accepts: 'an object of host names to addresses',
    test: (value) =>
      typeof value === 'object' &&
      value !== null &&
      Object.entries(value).every(([name, address]) => isWord(name) && isWord(address)),
  },
  resolvConf: {
    accepts: 'a string without NUL',
    test: (value) => typeof value === 'string' && !value.includes('\0'),
  },
};

/** Names of the guest's two drives, behind so many fixed disks (drivers/block/virtio_blk.c names in order of probing). */
const driveName = (fixedDisks: number, drive: number): string =>
  `vd${String.fromCharCode('a'.charCodeAt(0) + fixedDisks + drive)}`;

/** Attaches and mounts; after a failure the drives are empty again. */
export async function attachRootfs(
  machine: Machine,
  fixedDisks: number,
  rootfs: Rootfs | string,
  options: AttachOptions = {},
): Promise<Attached> {
  checkOptions('attach', ATTACH_OPTIONS, options);
  throwIfAborted('attach', options.signal);
  const session = machine.sessionFor('attach');
  const { path, config = {} } = typeof rootfs === 'string' ? { path: rootfs } : rootfs;
  const { writable = 'memory', signal, timeoutMs } = options;
  const onDisk = typeof writable === 'object';
  const filled: number[] = [];
  try {
    await machine.attachDisk(IMAGE_DRIVE, { path: resolve(path) });
    filled.push(IMAGE_DRIVE);
    if (onDisk) {
      await using scratch = await makeScratch(writable.diskMiB, options.signal);
      await machine.attachDisk(SCRATCH_DRIVE, { path: scratch.path, isScratch: true });
      filled.push(SCRATCH_DRIVE);
    }
    const request = {
      device: driveName(fixedDisks, IMAGE_DRIVE),
      writable: onDisk ? ('disk' as const) : writable,
      scratchDevice: onDisk ? driveName(fixedDisks, SCRATCH_DRIVE) : undefined,
      upperBytes: options.upperMiB === undefined ? undefined : options.upperMiB * MIB,
      extraHosts: hostLines(options.hosts),
      resolvConf: options.resolvConf,
    };
    await mountRootfs(session, request, { signal, timeoutMs });
    return { path: resolve(path), config, scratch: onDisk };
  } catch (error) {
    for (const drive of filled) await machine.detachDisk(drive).catch(() => {}); // The machine may be gone.
    throw error;
  }
}

/** Unmounts, and empties the drives. */
export async function detachRootfs(
  machine: Machine,
  attached: Attached | null,
  limits: WaitOptions,
): Promise<void> {
  const session = machine.sessionFor('detach');
  if (!attached) throw new VmforkError('VMF_STATE', 'no root filesystem is attached');
  await unmountRootfs(session, limits);
  await machine.detachDisk(IMAGE_DRIVE);
  if (attached.scratch) await machine.detachDisk(SCRATCH_DRIVE);
}

function hostLines(hosts: AttachOptions['hosts']): string | undefined {
  if (!hosts) return undefined;
  return Object.entries(hosts)
    .map(([name, address]) => `${address}\t${name}\n`)
    .join('');
}

function isWord(value: unknown): boolean {
  return typeof value === 'string' && /^[^\s\0]+$/.test(value);
}
