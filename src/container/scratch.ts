// Scratch disks: a sparse file with an empty ext4, made for one VM and gone with it.

import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { VmforkError } from '../errors.js';
import { cacheDirectory } from '../kvm/guest.js';

const run = promisify(execFile);
const MIB = 1024 * 1024;
// No journal: the disk does not outlive a crash. Tables are left for the guest's kernel to fill when it needs them, so that
// the file stays small.
const MKFS_OPTIONS = ['-q', '-F', '-t', 'ext4', '-O', '^has_journal', '-m', '0'];
const LAZY = ['-E', 'lazy_itable_init=1,nodiscard,root_owner=0:0'];

/** The file of a scratch disk. Whoever has opened it keeps it; disposal takes the name away. */
export interface Scratch extends AsyncDisposable {
  readonly path: string;
}

/** Makes one of so many MiB. Rejects with `VMF_DISK`. */
export async function makeScratch(diskMiB: number, signal?: AbortSignal): Promise<Scratch> {
  const directory = join(cacheDirectory(), 'scratch');
  const path = join(directory, `${randomUUID()}.ext4`);
  const remove = () => rm(path, { force: true });
  try {
    await mkdir(directory, { recursive: true });
    const file = await open(path, 'wx', 0o600);
    await file.truncate(diskMiB * MIB).finally(() => file.close());
    await run('mkfs.ext4', [...MKFS_OPTIONS, ...LAZY, path], { signal: signal ?? undefined });
    return { path, [Symbol.asyncDispose]: remove };
  } catch (cause) {
    await remove();
    if (signal?.aborted) throw new VmforkError('VMF_ABORTED', 'attach', { cause: signal.reason });
    throw new VmforkError('VMF_DISK', `cannot make a scratch disk of ${diskMiB} MiB`, {
      operation: 'mkfs.ext4',
      cause,
    });
  }
}
